"""Interactions as the user's tables hold them, checked row by row and turned to integers."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lorecast.config import DatasetConfig, InteractionColumns, ListColumn
from lorecast.data import parsing
from lorecast.data.files import Chunk
from lorecast.data.histories import last_places
from lorecast.data.layout import CONTEXT_PREFIX, SPLITS, fixed_lists
from lorecast.data.rejected import RowChecks, nulls
from lorecast.errors import ConfigError, InputError

NO_PART: Final = -1
"""Split code of an interaction that histories may use but that is no sample."""

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class InteractionRules:
    """Which columns are read and what a row must hold."""

    columns: InteractionColumns
    config: DatasetConfig

    def __post_init__(self) -> None:
        if self.columns.label is None and self.columns.rating is None:
            raise ConfigError("dataset.interactions: name a label column or a rating column")

    @property
    def used(self) -> tuple[str, ...]:
        """The columns that are read, each once."""
        c = self.columns
        names = [c.user, c.item, c.label, c.rating, c.timestamp, c.order, self.config.split.column]
        if c.history is not None:
            names.append(c.history.column)
        names += c.context
        return tuple(dict.fromkeys(name for name in names if name is not None))

    def schema(self) -> pa.Schema:
        """Of accepted rows: rows of user and item, the rating as it is, label 0 or 1, seconds,
        the split asked for (an index of SPLITS, or NO_PART), and, where they are mapped, the order
        the last L known items of the history, padded with 0 on the left, and the context as text.
        """
        mapped: list[tuple[str, pa.DataType]] = []
        if self.columns.order:
            mapped.append(("order", pa.int64()))
        if self.columns.history:
            mapped.append(("history", pa.list_(pa.int32(), self.config.history_length)))
        mapped += [(CONTEXT_PREFIX + name, pa.string()) for name in self.columns.context]
        return pa.schema(
            [
                ("user_row", pa.int32()),
                ("item_row", pa.int32()),
                ("rating", pa.float64()),
                ("label", pa.int8()),
                ("timestamp", pa.int64()),
                ("part", pa.int8()),
                *mapped,
            ]
        )


@dataclass(frozen=True)
class Checked:
    """A chunk, parted."""

    accepted: pa.Table
    """`InteractionRules.schema`."""
    rejected: pa.Table
    """`rejected.SCHEMA`."""
    history: Counter[str] = field(default_factory=Counter)
    """Of the history column: `ids`, those `unknown` as items, which histories go without; the
    accepted rows `liked` (label 1), and those `repeated`: whose own item their history ends with.
    """


def check(
    chunk: Chunk, file: str, rules: InteractionRules, user_ids: pa.Array, item_ids: pa.Array
) -> Checked:
    """Accepts the rows that follow the rules; ids become rows of the entity tables.

    Raises InputError if a column has a type that can never hold what it should.
    """
    table, columns = chunk.table, rules.columns

    def read(column: str, parse: Callable[[parsing.Column], _T]) -> _T:
        try:
            return parse(table[column])
        except TypeError as error:
            raise InputError(
                f"{file}: column {column!r} is {table.schema.field(column).type}, expected {error}"
            ) from None

    checks = RowChecks(table.num_rows)
    rows = {}
    for name, column, known in (
        ("user_row", columns.user, user_ids),
        ("item_row", columns.item, item_ids),
    ):
        ids = read(column, parsing.ids)
        places = _places(ids, known)
        checks.add(nulls(ids), f"{column} is empty")
        checks.add(places < 0, f"{column} is not in the {name.removesuffix('_row')}s table")
        rows[name] = places + 1
    values = {}
    for name, mapped, parse, wanted in (
        ("rating", columns.rating, parsing.numbers, "a number"),
        ("label", columns.label, parsing.labels, "0 or 1"),
        ("timestamp", columns.timestamp, parsing.seconds, "a time in seconds or ISO 8601"),
        ("order", columns.order, parsing.integers, "a whole number"),
    ):
        if mapped is not None:
            values[name] = read(mapped, parse)
            checks.add(nulls(values[name]), f"{mapped} is not {wanted}")
    if "label" not in values:
        values["label"] = pc.greater_equal(values["rating"], rules.config.positive_rating)
    values.setdefault("rating", values["label"])
    values["part"] = pa.array(np.zeros(table.num_rows, np.int8))
    split = rules.config.split
    if split.column is not None:
        named = read(split.column, parsing.texts)
        names = [split.values.get(part, part) for part in SPLITS]
        part = pc.fill_null(pc.index_in(named, pa.array(names)), NO_PART)
        strange = (part.to_numpy() == NO_PART) & ~nulls(named)
        checks.add(strange, f"{split.column} is not {', '.join(names)} or empty")
        values["part"] = part
    for name in columns.context:
        values[CONTEXT_PREFIX + name] = read(name, parsing.texts)
    row_V = np.empty(0, np.int32)
    if (history := columns.history) is not None:
        owner_V, row_V = read(history.column, lambda c: _history_rows(c, history, item_ids))
        item_NL = _last_items(owner_V, row_V, table.num_rows, rules.config.history_length)
        values["history"] = fixed_lists(item_NL)

    good = pa.array(checks.passed())
    schema = rules.schema()
    accepted = pa.Table.from_arrays(
        [
            (pa.array(rows[name]) if name in rows else values[name]).filter(good).cast(kind)
            for name, kind in zip(schema.names, schema.types, strict=True)
        ],
        schema=schema,
    )
    counts = Counter[str]() if history is None else _history_counts(row_V, accepted)
    return Checked(accepted, checks.rejected(chunk, file), counts)


def _history_rows(
    column: parsing.Column, history: ListColumn, item_ids: pa.Array
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Of every entry of the histories: the line it stands in, and the item's row, 0 if unknown."""
    owner_V, values = parsing.entries(column, history.separator)
    return owner_V, _places(parsing.ids(values), item_ids) + 1


def _history_counts(row_V: NDArray[np.int32], accepted: pa.Table) -> Counter[str]:
    """See `Checked.history`."""
    last = pc.list_element(accepted["history"], accepted["history"].type.list_size - 1)
    liked_N = accepted["label"].to_numpy() == 1
    again_N = last.to_numpy() == accepted["item_row"].to_numpy()
    return Counter(
        ids=row_V.size,
        unknown=int(np.count_nonzero(row_V == 0)),
        liked=int(np.count_nonzero(liked_N)),
        repeated=int(np.count_nonzero(liked_N & again_N)),
    )


def _last_items(
    owner_V: NDArray[np.integer], row_V: NDArray[np.int32], num_lines: int, length: int
) -> NDArray[np.int32]:
    """The last `length` known items of each line, newest last: [N, L], 0 on the left."""
    owner_V, row_V = owner_V[row_V > 0], row_V[row_V > 0]
    column_V, kept_V = last_places(owner_V, num_lines, length)
    item_NL = np.zeros((num_lines, length), np.int32)
    item_NL[owner_V[kept_V], column_V[kept_V]] = row_V[kept_V]
    return item_NL


def _places(ids: pa.StringArray, known: pa.StringArray) -> NDArray[np.int32]:
    """Index of each id among the known ones; -1 if it is null or unknown."""
    codes = ids.dictionary_encode()
    index = pc.index_in(codes.dictionary, known).take(codes.indices)
    places: NDArray[np.int32] = pc.fill_null(index, -1).to_numpy()
    return places
