"""encode: the usable texts of a knowledge table to the vectors table.

Each distinct text is encoded once, in blocks on Ray Data, and scattered to wherever it stands.
"""

import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lorecast.artifacts import Artifact, Draft, StageSpec, build, find
from lorecast.config import ExperimentConfig, Side
from lorecast.data.dataset import Dataset
from lorecast.encoding.encoder import (
    Encoder,
    EncoderModel,
    SentenceTransformerEncoder,
    find_encoder,
)
from lorecast.encoding.scatter import SIDES, Scatter, chunk_names, history_end
from lorecast.encoding.vectors import HISTORY_END, STAGE, ChunkName
from lorecast.errors import EncodingError
from lorecast.jobs.blocks import Columns, map_blocks, open_block, thread_environment, write_blocks
from lorecast.jobs.console import Console
from lorecast.knowledge import rows

MakeEncoder = Callable[[], Encoder]

_BLOCK_TEXTS = 1024


def run(
    config: ExperimentConfig,
    dataset: Dataset,
    knowledge: Artifact,
    console: Console,
    make_encoder: MakeEncoder | None = None,
) -> Artifact:
    """The vectors table of `knowledge`. `make_encoder` replaces sentence-transformers.

    Raises EncodingError if the encoder is missing or cannot be loaded, or no text is usable.
    """
    model = find_encoder(config.encoding.model)
    spec = StageSpec(
        stage=STAGE,
        name=config.name,
        identity=config.encoding.identity() | {"model": model.digest},
        inputs={"knowledge": knowledge.fingerprint, "dataset": dataset.fingerprint},
    )
    workspace = Path(config.compute.workspace)
    if (artifact := find(workspace, spec)) is not None:
        return artifact
    texts = _usable_texts(knowledge)
    make = make_encoder or partial(SentenceTransformerEncoder, model, config.encoding)
    with build(workspace, spec) as draft:
        chunks = chunk_names(knowledge.facts["fields"])
        dim = _encode(config, dataset, texts, chunks, model, make, draft, console)
        draft.facts.update(
            dim=dim,
            dataset=dataset.fingerprint,
            chunks={side: [name._asdict() for name in chunks[side]] for side in SIDES},
            texts=texts.num_rows,
        )
    return Artifact.open(draft.path)


def _usable_texts(knowledge: Artifact) -> pa.Table:
    """The `ok` rows of knowledge.parquet."""
    path = knowledge.path / rows.KNOWLEDGE
    columns = ["side", "row", "field", "chunk", "text", "history_end"]
    texts = pq.read_table(path, columns=columns, filters=pc.field("status") == "ok")
    if texts.num_rows == 0:
        counts = ", ".join(f"{n:,} {status}" for status, n in knowledge.facts["counts"].items())
        raise EncodingError(
            f"{path} holds no usable text ({counts or 'it is empty'}): look at knowledge.fields "
            "and knowledge.llm, or train only the strategy `base`"
        )
    return texts


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
    """Writes the arrays of all sides that have texts and returns the width of a vector."""
    compute = config.compute
    encoded = texts["text"].combine_chunks().dictionary_encode()
    distinct = pa.table(
        {"place": pa.array(np.arange(len(encoded.dictionary))), "text": encoded.dictionary}
    )
    folder = draft.path / "texts"
    blocks = write_blocks([distinct], folder, _BLOCK_TEXTS)
    environment = thread_environment(compute, compute.encoders)
    if model.is_local:
        environment["HF_HUB_OFFLINE"] = "1"
    num_rows: dict[Side, int] = {
        "item": dataset.schema.num_items,
        "user": dataset.schema.num_users,
    }
    started_s = time.monotonic()
    scatter = Scatter(texts, encoded.indices.to_numpy(), chunks, num_rows, draft.path)
    vectors = map_blocks(
        blocks,
        _EncodingWorker,
        {"make_encoder": make_encoder},
        compute,
        actors=compute.encoders,
        gpus=compute.encoder_gpus,
        environment=environment,
    )
    with closing(vectors), console.progress("encode", distinct.num_rows) as task:
        for block in vectors:
            scatter.put(block["place"], block["vector"])
            task.advance(len(block["place"]))
    dim = scatter.close()
    shutil.rmtree(folder)
    if chunks["user"]:
        np.save(draft.path / HISTORY_END, history_end(texts, dataset.schema.num_users))
    seconds = time.monotonic() - started_s
    draft.facts.update(
        distinct_texts=distinct.num_rows,
        seconds=round(seconds, 3),
        texts_per_second=round(distinct.num_rows / seconds, 1),
    )
    return dim


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
