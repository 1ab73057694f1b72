"""What the columns of unknown tables look like, judged by their first rows."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from lorecast.config import ListColumn
from lorecast.data import parsing
from lorecast.data.files import TableFiles, is_table
from lorecast.errors import InputError

Kind = Literal["integer", "number", "time", "flag", "text", "other"]

_SAMPLE_ROWS: Final = 200_000
_SEPARATORS: Final = (None, "|", ";", ",")
_TIME_INTEGERS: Final = (100_000_000, 100_000_000_000)
"""Whole numbers between 1973 and 5138 may be seconds."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of a table, as its first rows show it."""

    name: str
    kind: Kind
    values: pa.Array
    """The sample as it is stored."""
    num_distinct: int
    num_null: int
    mean_length: float
    """Of the values as text."""

    @property
    def unique(self) -> bool:
        """No value twice and none missing."""
        return self.num_distinct == len(self.values) and not self.num_null

    @property
    def may_be_seconds(self) -> bool:
        if self.kind != "integer" or self.num_null == len(self.values):
            return False
        extremes = pc.min_max(parsing.integers(self.values)).as_py()
        return bool(_TIME_INTEGERS[0] <= extremes["min"] and extremes["max"] < _TIME_INTEGERS[1])

    def named(self, hints: Iterable[str]) -> bool:
        return named(self.name, hints)


@dataclass(frozen=True, kw_only=True)
class Table:
    """One table of a folder."""

    name: str
    """File or folder name."""
    files: TableFiles
    num_rows: int
    columns: tuple[Column, ...]

    def column(self, name: str) -> Column:
        return next(column for column in self.columns if column.name == name)


def several_values(column: Column, most: int) -> ListColumn | None:
    """How a column holds several of at most `most` values a row; none: it does not.

    A value must occur twice on the average, or prose would be cut at its commas.
    """
    for separator in _SEPARATORS:
        try:
            lists = parsing.text_lists(column.values, separator)
        except TypeError:
            continue
        values = lists.flatten()
        num_distinct = len(pc.unique(values))
        longest = pc.max(pc.list_value_length(lists)).as_py() or 0
        if longest > 1 and num_distinct <= min(most, len(values) // 2, column.num_distinct or most):
            return ListColumn(column=column.name, separator=separator)
    return None


def named(name: str, hints: Iterable[str]) -> bool:
    """Whether a word of the name is a hint, or begins with one of four letters or more."""
    words = [word.lower() for word in re.findall(r"[a-z]+|[A-Z][a-z]+|[A-Z]+", name)]
    return any(
        word == hint or (len(hint) >= 4 and word.startswith(hint))
        for word in words
        for hint in hints
    )


def profile_folder(folder: Path) -> list[Table]:
    """All tables in a folder: its Parquet and CSV files, and subfolders of such files.

    Raises InputError if there is none or one cannot be read.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; name the one with the tables")
    names = sorted(
        path.name
        for path in folder.iterdir()
        if is_table(path) or (path.is_dir() and any(map(is_table, path.iterdir())))
    )
    if not names:
        raise InputError(f"{folder}: no Parquet or CSV file in it")
    return [_profile(name, TableFiles.find(folder, name)) for name in names]


def _profile(name: str, files: TableFiles) -> Table:
    names = list(files.column_types())
    chunks = []
    rows = 0
    for fragment in files.fragments(_SAMPLE_ROWS):
        for chunk in files.scan(fragment, names, _SAMPLE_ROWS):
            chunks.append(chunk.table)
            rows += chunk.table.num_rows
            if rows >= _SAMPLE_ROWS:
                break
        if rows >= _SAMPLE_ROWS:
            break
    sample = pa.concat_tables(chunks) if chunks else pa.table({})
    columns = tuple(
        _column(name, sample[name].slice(0, _SAMPLE_ROWS)) for name in sample.column_names
    )
    return Table(name=name, files=files, num_rows=files.num_rows(), columns=columns)


def _column(name: str, values: pa.ChunkedArray) -> Column:
    kind = _kind(values)
    num_distinct, mean_length = 0, 0.0
    if kind != "other":
        text = values.cast(pa.string())
        num_distinct = pc.count_distinct(text, mode="only_valid").as_py()
        mean_length = pc.mean(pc.utf8_length(text)).as_py() or 0.0
    return Column(
        name=name,
        kind=kind,
        values=pa.concat_arrays(values.chunks) if values.num_chunks else pa.nulls(0),
        num_distinct=num_distinct,
        num_null=values.null_count,
        mean_length=mean_length,
    )


def _kind(values: pa.ChunkedArray) -> Kind:
    """The narrowest kind that reads every value; text is tried as numbers and times too."""
    if pt.is_temporal(values.type):
        return "time"
    if pt.is_boolean(values.type):
        return "flag"
    missing = values.null_count
    try:
        if parsing.labels(values).null_count == missing:
            return "flag"
        if parsing.integers(values).null_count == missing:
            return "integer"
        if parsing.numbers(values).null_count == missing:
            return "number"
        if parsing.seconds(values).null_count == missing:
            return "time"
    except TypeError:
        pass
    try:
        parsing.texts(values)
    except TypeError:
        return "other"
    return "text"
