"""The texts behind a bundle's knowledge, for people to read; no score depends on them.

    texts.parquet       side, row, place (in the side's chunks), share, text; in the order of the
                        knowledge table, a side's rows in a row

Bundles of older versions, and those made with `serving.texts: false`, have none.
"""

from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from lorecast.config import Side
from lorecast.encoding.scatter import SIDES, chunk_places
from lorecast.encoding.vectors import VectorsTable
from lorecast.knowledge.rows import KNOWLEDGE

FILE: Final = "texts.parquet"
SCHEMA: Final = pa.schema(
    [
        ("side", pa.string()),
        ("row", pa.int32()),
        ("place", pa.int32()),
        ("share", pa.float32()),
        ("text", pa.string()),
    ]
)
_COLUMNS: Final = ["side", "row", "field", "chunk", "weight", "text"]
_GROUP_ROWS: Final = 8192
"""Of the file; what is read to find one entity's texts."""


class Text(NamedTuple):
    """What was written about an entity, as one chunk of its knowledge."""

    place: int
    """In the side's chunks."""
    share: float
    """1, or its part of the chunk's vector where two groups' texts are mixed."""
    text: str


def write_texts(folder: Path, knowledge: Path, vectors: VectorsTable) -> None:
    """Writes the texts of the artifact `knowledge` that became these vectors to a bundle's folder,
    in one pass."""
    table = ds.dataset(knowledge / KNOWLEDGE)
    wanted = (pc.field("status") == "ok") & pc.field("field").isin(
        [name.field for side in SIDES for name in vectors.chunks(side)]
    )
    with pq.ParquetWriter(folder / FILE, SCHEMA, compression="zstd") as writer:
        for batch in table.to_batches(columns=_COLUMNS, filter=wanted, batch_size=_GROUP_ROWS):
            if batch.num_rows:
                texts = _read_by_models(pa.Table.from_batches([batch]), vectors)
                writer.write_table(texts.cast(SCHEMA), row_group_size=_GROUP_ROWS)


def read_texts(folder: Path, side: Side, row: int) -> list[Text] | None:
    """An entity's texts in the order of its chunks; none if the bundle has no texts at all."""
    if not (folder / FILE).exists():
        return None
    of_entity = (pc.field("side") == side) & (pc.field("row") == row)
    found = pq.read_table(folder / FILE, columns=["place", "share", "text"], filters=of_entity)
    return [Text(**line) for line in found.sort_by("place").to_pylist()]


def _read_by_models(texts: pa.Table, vectors: VectorsTable) -> pa.Table:
    """The texts that have a vector, as in `SCHEMA`; `encoding.where` leaves some without."""
    place_N = chunk_places(texts, vectors.names)
    row_N = texts["row"].to_numpy()
    has_vector_N = np.zeros(len(row_N), bool)
    for side in SIDES:
        if vectors.chunks(side):
            here = np.flatnonzero(pc.equal(texts["side"], side).to_numpy(zero_copy_only=False))
            has_vector_N[here] = vectors.mask(side)[row_N[here], place_N[here]]
    columns = {
        "side": texts["side"],
        "row": texts["row"],
        "place": place_N.astype(np.int32),
        "share": texts["weight"],
        "text": texts["text"],
    }
    return pa.table(columns).filter(pa.array(has_vector_N))
