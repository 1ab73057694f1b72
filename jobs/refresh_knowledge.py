"""Knowledge of the entities that a refresh brings: asked of the experiment's engine, encoded.

Prompts are those of `generate`, answers go to the same store, vectors to the same, and what was
fitted to all texts (the components of `encoding.components`) is taken over.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lorecast.artifacts import Draft, find, fingerprint
from lorecast.config import ExperimentConfig, Side, VectorsField
from lorecast.data.dataset import Dataset
from lorecast.data.growth import Joined
from lorecast.data.histories import Timelines, prefix_lengths
from lorecast.data.layout import ITEMS, USERS, part_name, samples_folder
from lorecast.data.samples import empty_past, past_table, sample_index, sample_table
from lorecast.encoding.components import COMPONENTS, map_to
from lorecast.encoding.encoder import EncoderModel, SentenceTransformerEncoder, find_encoder
from lorecast.encoding.ready import open_arrays
from lorecast.encoding.scatter import SIDES, chunk_places, history_end, placed
from lorecast.encoding.vectors import ChunkName
from lorecast.errors import ArtifactError, ConfigError
from lorecast.jobs import engines
from lorecast.jobs.asking import MakeEngine
from lorecast.jobs.console import Console
from lorecast.jobs.encode import MakeEncoder, scatter_vectors
from lorecast.jobs.encode import stage_spec as encode_spec
from lorecast.jobs.generate import stage_spec as generate_spec
from lorecast.jobs.spending import WANTED_FILE, Account
from lorecast.knowledge import rows, store
from lorecast.knowledge.joining import knowledge_rows
from lorecast.knowledge.language_model import LanguageModel
from lorecast.knowledge.leakage import check_prompts
from lorecast.knowledge.plan import Plan, Question, questions
from lorecast.knowledge.quality import usable
from lorecast.knowledge.store import KnowledgeStore
from lorecast.lifecycle.bundle import Bundle, BundleVectors
from lorecast.lifecycle.refreshing import NewKnowledge
from lorecast.lifecycle.texts import SCHEMA
from lorecast.sella.item_vectors import ItemVectors


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What the knowledge of a model was made with."""

    asked: tuple[Question, ...]
    llm: LanguageModel | None
    encoder: EncoderModel
    vectors: Path
    """The folder of `encode`."""

    @classmethod
    def of(cls, config: ExperimentConfig, bundle: Bundle, dataset: Dataset) -> "Origin":
        """Raises ArtifactError if the model's knowledge is not what the experiment makes, or is not
        in the workspace."""
        workspace = config.compute.folder
        asked = questions(config.knowledge.fields)
        llm = engines.find_model(config) if asked else None
        knowledge = find(workspace, generate_spec(config, dataset, asked, llm))
        encoder = find_encoder(config.encoding.model)
        vectors = None
        if knowledge is not None:
            made = {
                field.name: ItemVectors.read(Path(field.folder).expanduser(), dataset)
                for field in config.knowledge.fields
                if isinstance(field, VectorsField)
            }
            vectors = find(workspace, encode_spec(config, dataset, knowledge, encoder, made))
        if vectors is None or vectors.fingerprint != bundle.fingerprints["vectors"]:
            raise ArtifactError(
                f"{bundle.path}: its knowledge is not that of this experiment, or not in "
                f"{workspace}: new texts must be asked and encoded as its own were; take the "
                "sections `knowledge` and `encoding` that it was trained with, and their workspace"
            )
        return cls(asked=asked, llm=llm, encoder=encoder, vectors=vectors.path)


@dataclass(frozen=True, kw_only=True)
class Learning:
    """One refresh's way to knowledge; what lies in `folder` afterwards can go."""

    config: ExperimentConfig
    bundle: Bundle
    dataset: Dataset
    items: Joined
    users: Joined
    folder: Path
    console: Console
    make_engine: MakeEngine | None = None
    make_encoder: MakeEncoder | None = None

    def run(self, lines: Timelines) -> tuple[NewKnowledge, dict[str, Any]]:
        """What is known of new and changed items and of new users; what that took.

        `lines`: the new clicks. Texts about users that the model has stay as they are.
        """
        shape = self.bundle.knowledge
        assert shape is not None, "a bare backbone has no knowledge"
        rows_of: dict[Side, NDArray[np.int32]] = {
            "item": self.items.row_G,
            "user": self.users.row_G[self.users.is_new_G],
        }
        none = np.empty(0, np.int32)
        row_G = {side: rows_of[side] if side in shape.sides else none for side in SIDES}
        chunks = {side: tuple(ChunkName(*name) for name in shape.chunks(side)) for side in SIDES}
        num_rows = {side: len(rows) for side, rows in row_G.items()}
        self.folder.mkdir(parents=True, exist_ok=True)
        texts, facts = rows.SCHEMA.empty_table(), {"prompts": 0, "prompts_asked": 0}
        facts |= {"texts": 0, "texts_encoded": 0, "output_tokens": 0}
        if any(num_rows.values()):
            if self.bundle.model.reads_certainty:
                raise ConfigError(
                    "model.kser.certainty is true: how sure a writer was is scaled over all texts, "
                    "which `lorecast refresh` leaves as they are; `lorecast run` does it anew"
                )
            origin = Origin.of(self.config, self.bundle, self.dataset)
            texts, asked = self._texts(origin, num_rows, lines)
            texts = placed(texts, chunks)
            facts |= asked | self._encode(origin, texts, chunks, num_rows)
        for side in shape.sides:
            open_arrays(self.folder, side, num_rows[side], len(chunks[side]), shape.dim)
        digest = fingerprint([self.bundle.fingerprints["knowledge"], texts["text"].to_pylist()])
        knowledge = NewKnowledge(
            rows=row_G,
            vectors=self._vectors(shape.sides),
            history_end_G=history_end(texts, num_rows["user"])[1:],
            texts=_as_kept(texts, chunks, row_G),
            fingerprint=digest if texts.num_rows else self.bundle.fingerprints["knowledge"],
        )
        return knowledge, facts

    def _texts(
        self, origin: Origin, num_rows: Mapping[Side, int], lines: Timelines
    ) -> tuple[pa.Table, dict[str, int]]:
        """The usable texts as `rows.SCHEMA`, rows counted from 1 among the new ones of a side."""
        found, facts = [rows.SCHEMA.empty_table()], {"prompts": 0}
        knowledge_store = KnowledgeStore(self.config.compute.folder / store.FOLDER)
        asked = tuple(q for q in origin.asked if num_rows[q.side] and not q.is_collective)
        self._tell_left_out(asked, num_rows)
        if not asked:
            return found[0], facts
        assert origin.llm is not None, "there is a question"
        draft = Draft(self.folder)
        account = Account(
            self.config, origin.llm, self.make_engine, knowledge_store, draft, self.console
        )
        with knowledge_store.in_use():
            for side in SIDES:
                own = tuple(question for question in asked if question.side == side)
                if not own:
                    continue
                about = self._new_items() if side == "item" else self._new_users(lines)
                plan = Plan.of(self.config, about, origin.llm.digest)
                plan = dataclasses.replace(plan, questions=own)
                planned = account(plan)
                facts["prompts"] += sum(planned.wanted.values())
                wanted = [pq.read_table(self.folder / WANTED_FILE)]
                found += knowledge_rows(wanted, knowledge_store.index(), own, {}, about)
        done = account.done
        facts |= {"prompts_asked": done.asked, "output_tokens": done.output_tokens}
        answered = pa.concat_tables(found)
        good = usable(answered, self.config.encoding.where)
        if left_out := answered.num_rows - good.num_rows:
            self.console.note(
                "texts that cannot be used (refused, empty, failed, outside encoding.where): "
                f"{left_out:,}"
            )
        return good, facts

    def _tell_left_out(self, asked: Sequence[Question], num_rows: Mapping[Side, int]) -> None:
        names = {question.field for question in asked}
        for field in self.config.knowledge.fields:
            if field.name not in names and num_rows[field.side]:
                kind = "is extracted collectively" if field.kind == "generate" else "is imported"
                self.console.note(
                    f"field {field.name} {kind}: the new {field.side}s have no text of it; "
                    "`lorecast run` on the grown tables gives them some"
                )

    def _new_items(self) -> Dataset:
        """A dataset whose items are the new and changed ones."""
        folder = self.folder / "items"
        folder.mkdir(exist_ok=True)
        pq.write_table(self.items.given, folder / ITEMS)
        schema = dataclasses.replace(self.dataset.schema, num_items=self.items.row_G.size)
        return dataclasses.replace(self.dataset, path=folder, schema=schema)

    def _new_users(self, lines: Timelines) -> Dataset:
        """A dataset whose users are the new ones; their prompts show what those of the prepared
        dataset would: the earliest of their clicks. Raises LeakageError if they show more."""
        folder, dataset = self.folder / "users", self.config.dataset
        samples = samples_folder(folder, "test")
        samples.mkdir(parents=True, exist_ok=True)
        length, new = self.dataset.history_length, self.users.is_new_G
        own = lines.of_users_from(self.users.num_before + 1)
        prefix_U = prefix_lengths(own.length_U, dataset.prefix_share, dataset.prefix_max)
        active_U, past = past_table(own, prefix_U, length)
        idle_U = np.setdiff1d(np.arange(1, new.sum() + 1), active_U)
        both = pa.concat_tables([past, empty_past(idle_U.size, length)])
        both = both.take(pa.array(np.argsort(np.concatenate([active_U, idle_U]))))
        users = self.users.given.filter(pa.array(new))
        for name in both.column_names:
            users = users.append_column(name, both[name])
        pq.write_table(users, folder / USERS)
        pq.write_table(self.items.table.select(["id", "title"]), folder / ITEMS)
        later = sample_table(own, sample_index(own, prefix_U), length)
        pq.write_table(later, samples / part_name(0))
        schema = dataclasses.replace(self.dataset.schema, num_users=users.num_rows)
        about = dataclasses.replace(self.dataset, path=folder, schema=schema)
        check_prompts(about)
        return about

    def _encode(
        self,
        origin: Origin,
        texts: pa.Table,
        chunks: Mapping[Side, tuple[ChunkName, ...]],
        num_rows: Mapping[Side, int],
    ) -> dict[str, int]:
        """Writes the arrays of the new rows, in the components of the model's."""
        if not texts.num_rows:
            return {}
        encoding = self.config.encoding
        make = self.make_encoder or partial(SentenceTransformerEncoder, origin.encoder, encoding)
        _, distinct = scatter_vectors(
            self.config, texts, chunks, num_rows, origin.encoder, make, self.folder, self.console
        )
        if encoding.components:
            basis_DR = np.load(origin.vectors / COMPONENTS, allow_pickle=False)
            map_to(self.folder, [side for side in SIDES if chunks[side]], basis_DR)
        num_new = len(distinct.texts) - distinct.num_stored
        return {"texts": texts.num_rows, "texts_encoded": num_new}

    def _vectors(self, sides: Sequence[Side]) -> BundleVectors:
        vectors, masks = (
            {side: np.load(self.folder / f"{side}{kind}.npy", mmap_mode="r") for side in sides}
            for kind in ("", "_mask")
        )
        certainties: dict[Side, NDArray[np.float16]] = {}
        if self.bundle.model.reads_certainty:
            certainties = {side: mask.astype(np.float16) for side, mask in masks.items()}
        return BundleVectors(vectors, masks, certainties)


def _as_kept(
    texts: pa.Table,
    chunks: Mapping[Side, tuple[ChunkName, ...]],
    row_G: Mapping[Side, NDArray[np.int32]],
) -> pa.Table:
    """The texts as a bundle keeps them, by its rows."""
    line_N = texts["row"].to_numpy() - 1
    row_N = np.zeros(texts.num_rows, np.int32)
    for side in SIDES:
        of_side = np.flatnonzero(np.asarray(pc.equal(texts["side"], side), bool))
        row_N[of_side] = row_G[side][line_N[of_side]]
    columns = {
        "side": texts["side"],
        "row": row_N,
        "place": chunk_places(texts, chunks).astype(np.int32),
        "share": texts["weight"],
        "text": texts["text"],
    }
    return pa.table(columns).cast(SCHEMA)
