"""Columns of users' tables to ids, numbers, times and labels; what cannot be read becomes null.

Every function takes a column of any type that CSV or Parquet brings and raises TypeError with the
wanted types if the column's type can never hold such values.
"""

from typing import Final, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt
from numpy.typing import NDArray

Column: TypeAlias = pa.Array | pa.ChunkedArray

MAX_SECONDS: Final = 100_000_000_000
"""Year 5138; larger times are most likely milliseconds."""

_EXACT: Final = 2.0**53
"""Below this, a float holds every whole number."""
_INTEGER: Final = r"^[+-]?[0-9]{1,18}$"
_NUMBER: Final = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?$"
_TIME: Final = (
    r"^(?P<date>\d{4}-\d{2}-\d{2})"
    r"(?:[T ](?P<clock>\d{2}:\d{2}(?::\d{2})?)(?:\.\d+)?)?"
    r" ?(?P<zone>Z|UTC|[+-]\d{2}:?\d{2})?$"
)


def ids(column: Column) -> pa.StringArray:
    """Ids as strings, so that 7 and "7" are the same entity. Empty strings are null."""
    column = _plain(column)
    if pt.is_floating(column.type):
        column = _whole(column)
    if pt.is_integer(column.type):
        codes = column.dictionary_encode()
        return codes.dictionary.cast(pa.string()).take(codes.indices)
    if not _is_text(column.type):
        raise TypeError("strings or integers")
    column = column.cast(pa.string())
    return pc.if_else(pc.equal(column, ""), None, column)


def texts(column: Column) -> pa.StringArray:
    """Values as words. Empty strings are null."""
    column = _plain(column)
    if not (_is_text(column.type) or pt.is_primitive(column.type)):
        raise TypeError("strings, numbers or dates")
    column = column.cast(pa.string())
    return pc.if_else(pc.equal(column, ""), None, column)


def categories(column: Column) -> pa.StringArray:
    """Values of features: one a row."""
    if _is_list(column.type):
        raise TypeError("one value a row (list the column in `multi` instead)")
    return texts(column)


def said(column: Column) -> pa.StringArray:
    """Words for prompts: texts, and the values of a list joined by commas."""
    column = _plain(column)
    if not _is_list(column.type):
        return texts(column)
    return texts(pc.binary_join(text_lists(column), ", "))


def entries(column: Column, separator: str | None = None) -> tuple[NDArray[np.int64], pa.Array]:
    """The values of lists, or of texts cut at the separator: each one's row, and itself.

    A missing list has none. Nothing or spaces between two separators are no value.
    """
    column = _plain(column)
    if separator is not None:
        if not _is_text(column.type):
            raise TypeError("strings to cut at the separator")
        column = pc.split_pattern(column.cast(pa.string()), separator)
    elif not _is_list(column.type):
        raise TypeError("lists (or strings, with a separator: {column: NAME, separator: '|'})")
    owner, values = pc.list_parent_indices(column), column.flatten()
    if separator is not None:
        values = pc.utf8_trim_whitespace(values)
        filled = pc.not_equal(values, "")
        owner, values = owner.filter(filled), values.filter(filled)
    return owner.to_numpy(), values


def text_lists(column: Column, separator: str | None = None) -> pa.ListArray:
    """Feature values of each row, each once, in their order; see `entries` and `texts`."""
    owner_V, found = entries(column, separator)
    values = texts(found)
    code_V = pc.fill_null(values.dictionary_encode().indices, -1).to_numpy()
    key_V = owner_V.astype(np.int64) * (len(values) + 1) + code_V
    first = np.unique(key_V, return_index=True)[1]
    first = np.sort(first[code_V[first] >= 0])
    ends = np.bincount(owner_V[first], minlength=len(column)).cumsum()
    offsets = pa.array(np.concatenate(([0], ends)), pa.int32())
    return pa.ListArray.from_arrays(offsets, values.take(pa.array(first)))


def finite(column: Column) -> pa.DoubleArray:
    """Numbers, null where there is none.

    Raises ValueError, showing it, for a value that is neither missing nor a finite number.
    """
    column = _plain(column)
    values = numbers(column)
    missing = column.is_null(nan_is_null=True)
    if _is_text(column.type):
        missing = pc.or_(missing, pc.equal(pc.utf8_trim_whitespace(column), ""))
    wrong = pc.and_not(values.is_null(), pc.fill_null(missing, True))
    if pc.any(wrong).as_py():
        raise ValueError(f"holds {column.filter(wrong)[0].as_py()!r}, which is no finite number")
    return values


def numbers(column: Column) -> pa.DoubleArray:
    """Finite numbers."""
    column = _plain(column)
    if _is_text(column.type):
        column = _where_matches(column.cast(pa.string()), _NUMBER)
    elif not (pt.is_integer(column.type) or pt.is_floating(column.type)):
        raise TypeError("numbers")
    column = column.cast(pa.float64(), safe=False)
    return pc.if_else(pc.is_finite(column), column, None)


def labels(column: Column) -> pa.Int8Array:
    """0 or 1; true and false count."""
    column = _plain(column)
    if _is_text(column.type):
        lower = pc.utf8_lower(column.cast(pa.string()))
        column = pc.case_when(
            pc.make_struct(pc.equal(lower, "true"), pc.equal(lower, "false")), "1", "0", lower
        )
    if pt.is_boolean(column.type):
        return column.cast(pa.int8())
    values = numbers(column)
    allowed = pc.or_(pc.equal(values, 0.0), pc.equal(values, 1.0))
    return pc.if_else(allowed, values, None).cast(pa.int8())


def integers(column: Column) -> pa.Int64Array:
    """Whole numbers; times count in their own unit."""
    column = _plain(column)
    if _is_text(column.type):
        return _where_matches(column.cast(pa.string()), _INTEGER).cast(pa.int64())
    if pt.is_floating(column.type):
        return _whole(column)
    if not (pt.is_integer(column.type) or pt.is_timestamp(column.type)):
        raise TypeError("integers or timestamps")
    return column.cast(pa.int64())


def seconds(column: Column) -> pa.Int64Array:
    """Times as seconds since 1970 in UTC.

    Numbers are seconds; strings are such numbers or ISO 8601. Times without a zone are UTC.
    """
    column = _plain(column)
    if pt.is_timestamp(column.type) or pt.is_date(column.type):
        found = column.cast(pa.timestamp("s"), safe=False).cast(pa.int64())
    elif _is_text(column.type):
        found = _seconds_of_text(column.cast(pa.string()))
    elif pt.is_integer(column.type):
        found = column.cast(pa.int64())
    elif pt.is_floating(column.type):
        found = _floor(numbers(column))
    else:
        raise TypeError("seconds or timestamps")
    plausible = pc.and_(pc.less(found, MAX_SECONDS), pc.greater(found, -MAX_SECONDS))
    return pc.if_else(plausible, found, None)


def _seconds_of_text(text: pa.StringArray) -> pa.Int64Array:
    numeric = _floor(numbers(text))
    if numeric.null_count == text.null_count:
        return numeric
    parts = pc.extract_regex(text, _TIME)
    date, clock, zone = (pc.struct_field(parts, name) for name in ("date", "clock", "zone"))
    clock = pc.utf8_rpad(pc.if_else(pc.equal(clock, ""), "00:00", clock), 6, ":")
    clock = pc.utf8_rpad(clock, 8, "0")
    local = pc.strptime(
        pc.binary_join_element_wise(date, clock, " "),
        format="%Y-%m-%d %H:%M:%S",
        unit="s",
        error_is_null=True,
    ).cast(pa.int64())
    digits = pc.replace_substring_regex(zone, "[^0-9]", "")
    digits = pc.utf8_rpad(digits, 4, "0").cast(pa.int64())
    ahead_s = pc.add(
        pc.multiply(pc.divide(digits, 100), 3600),
        pc.multiply(pc.subtract(digits, pc.multiply(pc.divide(digits, 100), 100)), 60),
    )
    offset_s = pc.if_else(pc.starts_with(zone, "-"), pc.negate(ahead_s), ahead_s)
    return pc.coalesce(numeric, pc.subtract(local, offset_s))


def _whole(column: pa.Array) -> pa.Int64Array:
    exact = pc.and_(pc.equal(column, pc.trunc(column)), pc.less(pc.abs(column), _EXACT))
    return pc.if_else(exact, column, None).cast(pa.int64())


def _floor(values: pa.DoubleArray) -> pa.Int64Array:
    return pc.floor(pc.if_else(pc.less(pc.abs(values), _EXACT), values, None)).cast(pa.int64())


def _where_matches(text: pa.StringArray, pattern: str) -> pa.StringArray:
    text = pc.utf8_trim_whitespace(text)
    return pc.if_else(pc.match_substring_regex(text, pattern), text, None)


def _plain(column: Column) -> pa.Array:
    """One array of ordinary values: chunks joined, dictionaries resolved, all-null as strings."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if isinstance(column, pa.ChunkedArray):  # more text than one array can hold, or no chunk
        column = pa.concat_arrays(column.chunks) if column.chunks else pa.array([], column.type)
    if pt.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pt.is_decimal(column.type):
        column = column.cast(pa.float64())
    return column.cast(pa.string()) if pt.is_null(column.type) else column


def _is_text(kind: pa.DataType) -> bool:
    return bool(pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind))
