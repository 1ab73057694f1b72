"""Knowledge written while a request waits: the LLM, the encoder and the extractor in one process.

Nobody serves like this; `lorecast latency` tells what it would take. The prompts are those of
`generate`, but no store is read or written. Fields that are not asked about each entity by itself
have their stored vectors.

Legend: N texts of a request, T distinct ones, U entities, C chunks, D encoder width.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lorecast.config import ExperimentConfig, Side
from lorecast.encoding.components import COMPONENTS, mapped
from lorecast.encoding.encoder import Encoder
from lorecast.encoding.scatter import SIDES, chunk_places, placed
from lorecast.encoding.vectors import VectorsTable
from lorecast.evaluation.latency import one_thread
from lorecast.jobs.asking import Origin, answers_table, chat
from lorecast.knowledge.engine import Engine
from lorecast.knowledge.joining import answered_rows
from lorecast.knowledge.plan import Plan
from lorecast.knowledge.quality import usable
from lorecast.knowledge.rows import KNOWLEDGE
from lorecast.lifecycle.bundle import Bundle, BundleVectors
from lorecast.lifecycle.click_scorer import ClickScorer
from lorecast.lifecycle.scorer import Id, Scores

_PLACE = ["side", "row", "field", "chunk"]


class Answered(NamedTuple):
    """One request, and what it took."""

    score_N: Scores
    texts: pa.Table
    """Usable ones, of `knowledge.rows.SCHEMA`."""
    prompts: int
    output_tokens: int
    llm_s: float
    encoder_s: float
    extractor_s: float

    @property
    def seconds(self) -> float:
        return self.llm_s + self.encoder_s + self.extractor_s


class Agreement(NamedTuple):
    """A request's texts and the stored ones of the same entities."""

    texts: int
    same_texts: int
    is_same_N: NDArray[np.bool_]
    """Candidates whose score rests on the same texts alone."""


class OnlineScorer:
    """Scores a user's candidates by texts that are written about them for the request."""

    def __init__(
        self,
        config: ExperimentConfig,
        plan: Plan,
        engine: Engine,
        encoder: Encoder,
        bundle: Bundle,
        stored: VectorsTable,
    ) -> None:
        """`plan`: its questions are asked about each entity by itself; `bundle`: of a model trained
        with the vectors `stored`."""
        assert bundle.knowledge, "a bare backbone has no knowledge"
        self._config, self._plan, self._engine, self._encoder = config, plan, engine, encoder
        self._stored, self._reads_histories = stored, bundle.model.item_field
        self._fields = [question.field for question in plan.questions]
        self._basis_DR: NDArray[np.float32] | None = None
        if config.encoding.components:
            self._basis_DR = np.load(stored.path / COMPONENTS, allow_pickle=False)
        self._sides = bundle.knowledge.sides
        shapes = {side: stored.vectors(side).shape for side in self._sides}
        self._vectors = BundleVectors(
            {side: np.zeros(shape, np.float16) for side, shape in shapes.items()},
            {side: np.zeros(shape[:2], np.bool_) for side, shape in shapes.items()},
            {},
        )
        self._scorer = ClickScorer(bundle, bundle.load_model(self._vectors))

    def score(self, user_id: Id, item_ids: Sequence[Id]) -> Answered:
        """The clock starts when the prompts are there. Torch scores with one thread; the LLM and
        the encoder have theirs. Raises EngineError if the engine breaks."""
        rows = self._rows(user_id, item_ids)
        asked = {question.side for question in self._plan.questions}
        prompts = pa.concat_tables(
            [self._plan.about(side, set(rows[side].tolist())) for side in SIDES if side in asked]
        )
        self._forget(rows)
        origin = Origin(model="", run_id="", language=self._config.knowledge.llm.language)
        started_s = time.perf_counter()
        answers = answers_table(prompts, chat(self._engine, prompts), origin)
        texts = answered_rows(prompts, answers, self._plan.questions)
        texts = placed(usable(texts, self._config.encoding.where), self._stored.names)
        told_s = time.perf_counter()
        if texts.num_rows:
            self._learn(texts)
        learnt_s = time.perf_counter()
        with one_thread():
            score_N = self._scorer.candidates(user_id, item_ids).score_N
        return Answered(
            score_N=score_N,
            texts=texts,
            prompts=prompts.num_rows,
            output_tokens=pc.sum(answers["output_tokens"]).as_py(),
            llm_s=told_s - started_s,
            encoder_s=learnt_s - told_s,
            extractor_s=time.perf_counter() - learnt_s,
        )

    def compare(
        self, user_id: Id, item_ids: Sequence[Id], texts: pa.Table, knowledge: Path
    ) -> Agreement:
        """`texts` of this request against those in the folder of `generate`."""
        rows = self._rows(user_id, item_ids)
        stored = pq.read_table(knowledge / KNOWLEDGE, filters=self._about(rows))
        stored = usable(stored, self._config.encoding.where).select([*_PLACE, "text"])
        both = stored.join(
            texts.select([*_PLACE, "text"]), _PLACE, join_type="full outer", right_suffix="_asked"
        )
        is_same = pc.fill_null(pc.equal(both["text"], both["text_asked"]), False)
        others = both.filter(pc.invert(is_same))
        other: dict[str, Any] = {
            side: others.filter(pc.equal(others["side"], side))["row"].to_numpy() for side in SIDES
        }
        read = self._scorer.recent(rows["user"])[0] if self._reads_histories else ()
        is_known = not len(other["user"]) and not np.isin(read, other["item"]).any()
        item_row_N = self._scorer.rows("item", item_ids)
        return Agreement(
            texts=both.num_rows,
            same_texts=both.num_rows - others.num_rows,
            is_same_N=is_known & ~np.isin(item_row_N, other["item"]),
        )

    def _rows(self, user_id: Id, item_ids: Sequence[Id]) -> dict[Side, NDArray[np.int32]]:
        """Whose texts are read: the user, the candidates, and the history where the model reads
        that through texts."""
        user_row = self._scorer.rows("user", [user_id])
        item_row = self._scorer.rows("item", item_ids)
        if self._reads_histories:
            item_row = np.append(item_row, self._scorer.recent(user_row)[0])
        return {"item": np.setdiff1d(item_row, [0]), "user": user_row}

    def _about(self, rows: Mapping[Side, NDArray[np.int32]]) -> pc.Expression:
        """The stored texts that are asked for anew."""
        items, users = (
            (pc.field("side") == side) & pc.field("row").isin(rows[side]) for side in SIDES
        )
        return pc.field("field").isin(self._fields) & (items | users)

    def _forget(self, rows: Mapping[Side, NDArray[np.int32]]) -> None:
        """What is asked about these entities is not known; the rest is as it is stored."""
        for side in self._sides:
            row_U = rows[side]
            names = self._stored.chunks(side)
            is_kept_C = np.array([name.field not in self._fields for name in names])
            vector_UCD, mask_UC = self._stored.vectors(side)[row_U], self._stored.mask(side)[row_U]
            self._vectors.vectors(side)[row_U] = vector_UCD * is_kept_C[:, None]
            self._vectors.mask(side)[row_U] = mask_UC & is_kept_C

    def _learn(self, texts: pa.Table) -> None:
        """Encodes each distinct text, and puts its vector wherever it stands."""
        encoded = texts["text"].combine_chunks().dictionary_encode()
        vector_TD = self._encoder.encode(encoded.dictionary.to_pylist())
        if self._basis_DR is not None:
            vector_TD = mapped(vector_TD, self._basis_DR)
        vector_ND = vector_TD[encoded.indices.to_numpy()]
        place_N = chunk_places(texts, self._stored.names)
        row_N = texts["row"].to_numpy()
        for side in self._sides:
            of_side = np.flatnonzero(pc.equal(texts["side"], side))
            place = row_N[of_side], place_N[of_side]
            self._vectors.vectors(side)[place] = vector_ND[of_side]
            self._vectors.mask(side)[place] = True
