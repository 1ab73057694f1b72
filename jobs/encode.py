"""encode: the usable texts of a knowledge table to the vectors table.

Each distinct text is encoded once in a workspace, in blocks on Ray Data, and scattered to wherever
it stands.
"""

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lorecast.artifacts import Artifact, Draft, StageSpec, build, find
from lorecast.config import ComputeConfig, ExperimentConfig, Side, VectorsField
from lorecast.data.dataset import Dataset
from lorecast.encoding import ready
from lorecast.encoding.certainty import write_certainty
from lorecast.encoding.components import keep_components
from lorecast.encoding.encoder import (
    Encoder,
    EncoderModel,
    SentenceTransformerEncoder,
    find_encoder,
)
from lorecast.encoding.scatter import SIDES, Scatter, chunk_names, history_end
from lorecast.encoding.stored import SortedTexts, VectorStore
from lorecast.encoding.vectors import HISTORY_END, STAGE, ChunkName
from lorecast.errors import EncodingError
from lorecast.jobs.blocks import Columns, map_blocks, open_block, thread_environment, write_blocks
from lorecast.jobs.console import Console
from lorecast.knowledge import rows
from lorecast.knowledge.quality import with_quality, within
from lorecast.sella.item_vectors import ItemVectors

MakeEncoder = Callable[[], Encoder]

_BLOCK_TEXTS = 1024
_COLUMNS = ["side", "row", "field", "factor", "chunk", "text", "status", "history_end", "weight"]


def run(
    config: ExperimentConfig,
    dataset: Dataset,
    knowledge: Artifact,
    console: Console,
    make_encoder: MakeEncoder | None = None,
) -> Artifact:
    """The vectors table of `knowledge`. `make_encoder` replaces sentence-transformers.

    Texts that this encoder has met before in the workspace come from its `VectorStore`; the vectors
    are the same as without it, up to what the other texts of a batch change in the rounding.

    Raises EncodingError if the encoder is missing, cannot be loaded or has fewer dimensions than
    encoding.components, no text is usable, or the store is damaged or cannot grow; LeakageError if
    vectors of a field that has them were made on another dataset.
    """
    model = find_encoder(config.encoding.model)
    vectors = {
        field.name: ItemVectors.read(Path(field.folder).expanduser(), dataset)
        for field in config.knowledge.fields
        if isinstance(field, VectorsField)
    }
    spec = stage_spec(config, dataset, knowledge, model, vectors)
    workspace = config.compute.folder
    if (artifact := find(workspace, spec)) is not None:
        return artifact
    texts, num_left_out = _usable_texts(knowledge, config, console)
    make = make_encoder or partial(SentenceTransformerEncoder, model, config.encoding)
    with build(workspace, spec) as draft:
        chunks = chunk_names(knowledge.facts["fields"])
        dim = 0
        if texts.num_rows:
            dim = _encode(config, dataset, texts, chunks, model, make, draft, console)
        dim = config.encoding.components or dim
        if vectors:
            dim = _put_vectors(vectors, chunks["item"], dataset, draft.path, dim)
        draft.facts.update(
            dim=dim,
            dataset=dataset.fingerprint,
            chunks={side: [name._asdict() for name in chunks[side]] for side in SIDES},
            texts=texts.num_rows,
            texts_left_out=num_left_out,
        )
    return Artifact.open(draft.path)


def stage_spec(
    config: ExperimentConfig,
    dataset: Dataset,
    knowledge: Artifact,
    model: EncoderModel,
    vectors: Mapping[str, ItemVectors],
) -> StageSpec:
    """`vectors`: of the fields that have them, by name."""
    return StageSpec(
        stage=STAGE,
        name=config.name,
        identity=config.encoding.identity() | {"model": model.digest},
        inputs={
            "knowledge": knowledge.facts["texts_digest"],
            "dataset": dataset.fingerprint,
            **{f"field {name}": of.fingerprint for name, of in vectors.items()},
        },
    )


def _put_vectors(
    vectors: Mapping[str, ItemVectors],
    chunks: Sequence[ChunkName],
    dataset: Dataset,
    folder: Path,
    dim: int,
) -> int:
    """Writes the vectors of fields that have them; returns the width of all, which is `dim` unless
    that is 0."""
    dim = dim or max(of.vector_RH.shape[1] for of in vectors.values())
    ready.open_arrays(folder, "item", dataset.schema.num_items, len(chunks), dim)
    for place, chunk in enumerate(chunks):
        if of := vectors.get(chunk.field):
            ready.put(folder, "item", place, of.vector_RH, of.known_R)
    return dim


def _usable_texts(
    knowledge: Artifact, config: ExperimentConfig, console: Console
) -> tuple[pa.Table, int]:
    """The `ok` rows of knowledge.parquet inside encoding.where, and the number outside."""
    path, encoding = knowledge.path / rows.KNOWLEDGE, config.encoding
    certainty = [name for name in pq.read_schema(path).names if name == rows.CERTAINTY]
    texts = pq.read_table(path, columns=[*_COLUMNS, *certainty], filters=pc.field("status") == "ok")
    fields = config.knowledge.fields
    if fields and all(isinstance(field, VectorsField) for field in fields):
        return texts, 0
    if texts.num_rows == 0:
        counts = ", ".join(f"{n:,} {status}" for status, n in knowledge.facts["counts"].items())
        raise EncodingError(
            f"{path} holds no usable text ({counts or 'it is empty'}): look at knowledge.fields "
            "and knowledge.llm, or train only the strategy `base`"
        )
    if not encoding.where:
        return texts, 0
    is_within = within(with_quality(texts), encoding.where)
    usable = texts.filter(is_within)
    num_outside = texts.num_rows - usable.num_rows
    if usable.num_rows == 0:
        raise EncodingError(
            f"encoding.where leaves none of the {num_outside:,} texts of {path}: widen its bounds; "
            "`lorecast audit` shows the columns"
        )
    console.note(f"texts left out by encoding.where: {num_outside:,} of {texts.num_rows:,}")
    return usable, num_outside


def _encode(
    config: ExperimentConfig,
    dataset: Dataset,
    texts: pa.Table,
    chunks: Mapping[Side, tuple[ChunkName, ...]],
    model: EncoderModel,
    make_encoder: MakeEncoder,
    draft: Draft,
    console: Console,
) -> int:
    """Writes the arrays of all sides that have texts and returns the width of the encoder."""
    components = config.encoding.components
    started_s = time.monotonic()
    num_rows: dict[Side, int] = {
        "item": dataset.schema.num_items,
        "user": dataset.schema.num_users,
    }
    dim, distinct = scatter_vectors(
        config, texts, chunks, num_rows, model, make_encoder, draft.path, console
    )
    num_new = len(distinct.texts) - distinct.num_stored
    if components:
        sides = [side for side in SIDES if chunks[side]]
        kept = keep_components(draft.path, sides, components)
        draft.facts.update(encoder_dim=dim, variance_kept=round(kept, 7))
        console.note(f"{components} of {dim} components keep {kept:.2%} of the variance")
    if chunks["user"]:
        np.save(draft.path / HISTORY_END, history_end(texts, dataset.schema.num_users))
    if rows.CERTAINTY in texts.column_names:
        write_certainty(texts, chunks, num_rows, draft.path)
    seconds = time.monotonic() - started_s
    draft.facts.update(
        distinct_texts=len(distinct.texts),
        texts_encoded=num_new,
        texts_found=distinct.num_stored,
        seconds=round(seconds, 3),
        texts_per_second=round(num_new / seconds, 1),
    )
    return dim


def scatter_vectors(
    config: ExperimentConfig,
    texts: pa.Table,
    chunks: Mapping[Side, tuple[ChunkName, ...]],
    num_rows: Mapping[Side, int],
    model: EncoderModel,
    make_encoder: MakeEncoder,
    folder: Path,
    console: Console,
) -> tuple[int, SortedTexts]:
    """Encodes what is not stored of these texts, and writes the arrays of all sides with chunks to
    `folder`, in all dimensions; returns how many these are, and the distinct texts."""
    encoded = texts["text"].combine_chunks().dictionary_encode()
    store = VectorStore.of(config.compute.folder, model, config.encoding)
    distinct = store.sort(encoded.dictionary)
    if distinct.num_stored:
        console.note(
            f"texts encoded before: {distinct.num_stored:,} of {len(distinct.texts):,} distinct"
        )
    components = config.encoding.components
    place_N = distinct.place_S[encoded.indices.to_numpy()]
    scatter = Scatter(texts, place_N, chunks, num_rows, folder)
    num_new = len(distinct.texts) - distinct.num_stored
    vectors = _vectors(distinct, store, config.compute, model, make_encoder, folder)
    with closing(vectors), console.progress("encode", num_new) as task:
        for place_M, vector_MD in vectors:
            if components and components > (width := vector_MD.shape[1]):
                raise EncodingError(
                    f"encoding.components is {components}, but {config.encoding.model} has "
                    f"{width} dimensions: set at most {width}, or null for all of them"
                )
            scatter.put(place_M, vector_MD)
            if place_M[0] >= distinct.num_stored:
                task.advance(len(place_M))
    return scatter.close(), distinct


def embed_texts(config: ExperimentConfig, texts: pa.Array) -> NDArray[np.float32]:
    """The vectors of texts by the experiment's encoder: [N, D], in their order.

    Raises EncodingError if the encoder is missing or cannot be loaded.
    """
    model = find_encoder(config.encoding.model)
    make_encoder = partial(SentenceTransformerEncoder, model, config.encoding)
    workspace = config.compute.folder
    encoded = texts.dictionary_encode()
    store = VectorStore.of(workspace, model, config.encoding)
    distinct = store.sort(encoded.dictionary)
    vectors = _vectors(distinct, store, config.compute, model, make_encoder, workspace)
    with closing(vectors):
        blocks = {int(place_M[0]): vector_MD for place_M, vector_MD in vectors}
    vector_SD = np.concatenate([blocks[place] for place in sorted(blocks)])
    place_N = distinct.place_S[encoded.indices.to_numpy()]
    vector_ND: NDArray[np.float32] = vector_SD[place_N].astype(np.float32)
    return vector_ND


def _vectors(
    distinct: SortedTexts,
    store: VectorStore,
    compute: ComputeConfig,
    model: EncoderModel,
    make_encoder: MakeEncoder,
    folder: Path,
) -> Generator[tuple[NDArray[np.int64], NDArray[np.float16]], None, None]:
    """Places and vectors of blocks of texts: those in store, then the others as they finish.

    The others are stored before they come out, so that a killed encoding goes on where it was;
    their texts lie in `folder` for as long.
    """
    yield from distinct.stored()
    places = np.arange(distinct.num_stored, len(distinct.texts))
    if not places.size:
        return
    new = pa.table({"place": places, "text": distinct.texts[distinct.num_stored :]})
    with TemporaryDirectory(dir=folder, prefix=".texts-") as texts_folder:
        blocks = write_blocks([new], Path(texts_folder), _BLOCK_TEXTS)
        with closing(_encoded_blocks(blocks, compute, model, make_encoder)) as encoded:
            for block in encoded:
                store.append(distinct.key_S2[block["place"]], block["vector"])
                yield block["place"], block["vector"]


def _encoded_blocks(
    blocks: Sequence[Path], compute: ComputeConfig, model: EncoderModel, make_encoder: MakeEncoder
) -> Generator[Columns, None, None]:
    """Places and vectors of each block of texts, as they finish."""
    environment = thread_environment(compute, compute.encoders)
    if model.is_local:
        environment["HF_HUB_OFFLINE"] = "1"
    return map_blocks(
        blocks,
        _EncodingWorker,
        {"make_encoder": make_encoder},
        compute,
        actors=compute.encoders,
        gpus=compute.encoder_gpus,
        environment=environment,
    )


class _EncodingWorker:
    """An actor: one encoder, one block of texts at a time."""

    def __init__(self, make_encoder: MakeEncoder) -> None:
        self._make_encoder = make_encoder
        self._encoder: Encoder | None = None

    def __call__(self, batch: Columns) -> Columns:
        block = open_block(batch, EncodingError)
        if self._encoder is None:
            self._encoder = self._make_encoder()
        return {
            "place": block["place"].to_numpy(),
            "vector": self._encoder.encode(block["text"].to_pylist()),
        }
