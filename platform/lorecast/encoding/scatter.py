"""From vectors of distinct texts to the arrays of the vectors table."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lorecast.config import Side
from lorecast.encoding.vectors import ChunkName, VectorsWriter
from lorecast.knowledge.leakage import NO_KNOWLEDGE, UNKNOWN_END

SIDES: Final[tuple[Side, Side]] = ("item", "user")


def chunk_names(fields: Sequence[Mapping[str, Any]]) -> dict[Side, tuple[ChunkName, ...]]:
    """What each side's places hold: the fields in their order, their factors in theirs.

    `fields` are those of a knowledge artifact's facts: name, side, factors.
    """
    return {
        side: tuple(
            ChunkName(field["name"], factor)
            for field in fields
            if field["side"] == side
            for factor in field["factors"]
        )
        for side in SIDES
    }


def chunk_places(
    texts: pa.Table, chunks: Mapping[Side, tuple[ChunkName, ...]]
) -> NDArray[np.int64]:
    """For each text, its place in C: where its field begins, and its chunk inside."""
    first = {
        name.field: place
        for side in SIDES
        for place, name in reversed(list(enumerate(chunks[side])))
    }
    field = texts["field"].combine_chunks().dictionary_encode()
    starts = np.array([first[name] for name in field.dictionary.to_pylist()], np.int64)
    place_N: NDArray[np.int64] = texts["chunk"].to_numpy() + starts[field.indices.to_numpy()]
    return place_N


def placed(texts: pa.Table, chunks: Mapping[Side, tuple[ChunkName, ...]]) -> pa.Table:
    """The texts that have a place in C: a new answer may have more parts than any had."""
    number = {
        name.field: sum(other.field == name.field for other in chunks[side])
        for side in SIDES
        for name in chunks[side]
    }
    fields = pa.array(list(number), pa.string())
    limits = pa.array(list(number.values()), pa.int32())
    limit_N = limits.take(pc.index_in(texts["field"].combine_chunks(), value_set=fields))
    return texts.filter(pc.fill_null(pc.less(texts["chunk"].combine_chunks(), limit_N), False))


def history_end(texts: pa.Table, num_users: int) -> NDArray[np.int32]:
    """Per user row, what the user's texts saw at most; see `knowledge.leakage`."""
    users = texts.filter(pc.equal(texts["side"], "user"))
    ends = np.full(num_users + 1, NO_KNOWLEDGE, np.int32)
    seen = pc.fill_null(users["history_end"], UNKNOWN_END).to_numpy()
    np.maximum.at(ends, users["row"].to_numpy(), seen)
    return ends


class Scatter:
    """Puts the vector of a distinct text wherever it stands; texts of a weight below 1 add up.

    Legend: N lines of the texts' table, C chunks, D encoder width.
    """

    def __init__(
        self,
        texts: pa.Table,
        place_N: NDArray[np.integer],
        chunks: Mapping[Side, tuple[ChunkName, ...]],
        num_rows: Mapping[Side, int],
        folder: Path,
    ) -> None:
        """`place_N`: for each line, the place of its text among the distinct ones; `num_rows`:
        entities of each side; the arrays go to `folder`."""
        self._chunks = chunks
        self._folder = folder
        self._num_rows = num_rows
        self._order_N = np.argsort(place_N, kind="stable")
        self._place_N = place_N[self._order_N]
        lines = texts.take(pa.array(self._order_N))
        self._is_item_N = pc.equal(lines["side"], "item").to_numpy()
        self._row_N = lines["row"].to_numpy()
        self._chunk_N = chunk_places(lines, chunks)
        self._weight_N = lines["weight"].to_numpy()
        self._writers: dict[Side, VectorsWriter] = {}
        self._dim = 0

    def put(self, place_M: NDArray[np.integer], vector_MD: NDArray[np.float16]) -> None:
        """The vectors of M distinct texts, whose places follow each other."""
        if not self._writers:
            self._open(vector_MD.shape[1])
        first, last = np.searchsorted(self._place_N, (place_M[0], place_M[-1] + 1))
        lines = np.arange(first, last)
        for side, writer in self._writers.items():
            of_side = lines[self._is_item_N[lines] == (side == "item")]
            is_whole = self._weight_N[of_side] == 1
            whole, mixed = of_side[is_whole], of_side[~is_whole]
            writer.put(
                self._row_N[whole],
                self._chunk_N[whole],
                vector_MD[self._place_N[whole] - place_M[0]],
            )
            writer.add(
                self._row_N[mixed],
                self._chunk_N[mixed],
                vector_MD[self._place_N[mixed] - place_M[0]] * self._weight_N[mixed, None],
            )

    def close(self) -> int:
        """Everything is on disk; returns D."""
        for writer in self._writers.values():
            writer.close()
        return self._dim

    def _open(self, dim: int) -> None:
        self._dim = dim
        self._writers = {
            side: VectorsWriter(
                self._folder, side, self._num_rows[side], len(self._chunks[side]), dim
            )
            for side in SIDES
            if self._chunks[side]
        }
