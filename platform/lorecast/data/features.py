"""Features of entities as they stand in prepared tables, and as arrays by row.

    feature:NAME    code of the one value; 0 is unknown
    multi:NAME      codes of up to W values, 0 on the right where there are fewer
    numeric:NAME    a number in standard deviations from the mean, 0 where it is missing

Row 0 of every array stands for unknown entities and is zero.
"""

from collections.abc import Iterable, Mapping
from typing import Final, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

FEATURE_PREFIX: Final = "feature:"
MULTI_PREFIX: Final = "multi:"
NUMERIC_PREFIX: Final = "numeric:"
PREFIXES: Final = (FEATURE_PREFIX, MULTI_PREFIX, NUMERIC_PREFIX)

_T = TypeVar("_T", np.int32, np.float32)


def feature_fields(
    features: Iterable[str], multi: Mapping[str, int], numeric: Iterable[str]
) -> list[tuple[str, pa.DataType]]:
    """Names and types of the columns; `multi` says each one's width W."""
    return [
        *((FEATURE_PREFIX + name, pa.int32()) for name in features),
        *((MULTI_PREFIX + name, pa.list_(pa.int32(), width)) for name, width in multi.items()),
        *((NUMERIC_PREFIX + name, pa.float32()) for name in numeric),
    ]


def feature_codes(table: pa.Table, names: Iterable[str]) -> NDArray[np.int32]:
    """Codes by row and feature: [rows + 1, A]."""
    return _columns(table, [FEATURE_PREFIX + name for name in names], np.int32)


def multi_codes(table: pa.Table, names: Iterable[str]) -> dict[str, NDArray[np.int32]]:
    """Codes by row and place, for each feature: [rows + 1, W]."""
    found = {}
    for name in names:
        column = table[MULTI_PREFIX + name].combine_chunks()
        codes = np.zeros((len(column) + 1, column.type.list_size), np.int32)
        codes[1:] = column.flatten().to_numpy().reshape(-1, column.type.list_size)
        found[name] = codes
    return found


def numbers(table: pa.Table, names: Iterable[str]) -> NDArray[np.float32]:
    """Numbers by row and feature: [rows + 1, K]."""
    return _columns(table, [NUMERIC_PREFIX + name for name in names], np.float32)


def _columns(table: pa.Table, names: list[str], kind: type[_T]) -> NDArray[_T]:
    values = np.zeros((table.num_rows + 1, len(names)), kind)
    for place, name in enumerate(names):
        values[1:, place] = table[name].to_numpy()
    return values
