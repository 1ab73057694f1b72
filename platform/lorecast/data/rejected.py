"""Rows that cannot be used: why, how many, and where they are set aside."""

from collections.abc import Iterable, Mapping
from typing import Final, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt
from numpy.typing import NDArray

from lorecast.data.files import Chunk

SCHEMA: Final = pa.schema(
    [
        ("file", pa.string()),
        ("row", pa.int64()),  # from 0; null for a malformed line
        ("reason", pa.string()),
        ("content", pa.string()),  # the columns read, or the line
    ]
)
EXAMPLES: Final = 3


class Found(TypedDict):
    """What is told of one reason."""

    rows: int
    examples: list[str]


class RowChecks:
    """Collects, for each row of a chunk, the first thing wrong with it."""

    def __init__(self, num_rows: int) -> None:
        self._reasons = [""]
        self._code = np.zeros(num_rows, np.int16)

    def add(self, bad: NDArray[np.bool_], reason: str) -> None:
        """Rejects the rows where `bad`, unless they are rejected already."""
        self._code[bad & (self._code == 0)] = len(self._reasons)
        self._reasons.append(reason)

    def passed(self) -> NDArray[np.bool_]:
        """True for the rows that nothing was wrong with."""
        passed: NDArray[np.bool_] = self._code == 0
        return passed

    def rejected(self, chunk: Chunk, file: str) -> pa.Table:
        """The rejected rows and the malformed lines of the chunk (SCHEMA)."""
        bad = np.flatnonzero(self._code)
        rows = chunk.table.take(pa.array(bad))
        odd = len(chunk.malformed)
        reasons = pa.array(self._reasons).take(pa.array(self._code[bad]))
        return pa.Table.from_arrays(
            [
                pa.array([file] * (len(bad) + odd), pa.string()),
                pa.concat_arrays([pa.array(bad + chunk.first_row), pa.nulls(odd, pa.int64())]),
                pa.concat_arrays([reasons, pa.array(["malformed line"] * odd, pa.string())]),
                pa.concat_arrays([_content(rows), pa.array(chunk.malformed, pa.string())]),
            ],
            schema=SCHEMA,
        )


def nulls(column: pa.Array) -> NDArray[np.bool_]:
    """Where a column holds nothing."""
    found: NDArray[np.bool_] = column.is_null().to_numpy(zero_copy_only=False)
    return found


def summarise(rejected: pa.Table) -> dict[str, Found]:
    """Number of rows and first examples by reason."""
    return {
        reason: {
            "rows": rows.num_rows,
            "examples": rows["content"].slice(0, EXAMPLES).to_pylist(),
        }
        for reason in pc.unique(rejected["reason"]).to_pylist()
        for rows in [rejected.filter(pc.equal(rejected["reason"], reason))]
    }


def merge(summaries: Iterable[Mapping[str, Found]]) -> dict[str, Found]:
    """The summaries of several tables, in their order, as one."""
    merged: dict[str, Found] = {}
    for summary in summaries:
        for reason, found in summary.items():
            total = merged.setdefault(reason, {"rows": 0, "examples": []})
            total["rows"] += found["rows"]
            total["examples"] = (total["examples"] + found["examples"])[:EXAMPLES]
    return merged


def _content(rows: pa.Table) -> pa.StringArray:
    """The rows as text: `user_id=7, rating=five`."""
    shown = [
        pc.binary_join_element_wise(f"{name}=", pc.coalesce(_text(column), pa.scalar("")), "")
        for name, column in zip(rows.column_names, rows.columns, strict=True)
    ]
    joined = pc.binary_join_element_wise(*shown, ", ")
    return joined.combine_chunks() if isinstance(joined, pa.ChunkedArray) else joined


def _text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pt.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pt.is_nested(column.type):
        return pc.binary_join(column.cast(pa.list_(pa.string())), " ")
    return column.cast(pa.string())
