"""Interactions as the user's tables hold them, checked row by row and turned to integers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lorecast.config import InteractionColumns
from lorecast.data import parsing
from lorecast.data.files import Chunk
from lorecast.data.layout import SPLITS
from lorecast.data.rejected import RowChecks, nulls
from lorecast.errors import ConfigError, InputError

NO_PART: Final = -1
"""Split code of an interaction that histories may use but that is no sample."""


@dataclass(frozen=True, kw_only=True)
class InteractionRules:
    """Which columns are read and what a row must hold."""

    columns: InteractionColumns
    split_column: str | None
    positive_rating: float

    def __post_init__(self) -> None:
        if self.columns.label is None and self.columns.rating is None:
            raise ConfigError("dataset.interactions: name a label column or a rating column")

    @property
    def used(self) -> tuple[str, ...]:
        """The columns that are read, each once."""
        c = self.columns
        names = (c.user, c.item, c.label, c.rating, c.timestamp, c.order, self.split_column)
        return tuple(dict.fromkeys(name for name in names if name is not None))

    def schema(self) -> pa.Schema:
        """Of accepted rows: rows of user and item, the rating as it is, label 0 or 1, seconds,
        the split asked for (an index of SPLITS, or NO_PART), and the order if one is mapped."""
        order = [("order", pa.int64())] if self.columns.order else []
        return pa.schema(
            [
                ("user_row", pa.int32()),
                ("item_row", pa.int32()),
                ("rating", pa.float64()),
                ("label", pa.int8()),
                ("timestamp", pa.int64()),
                ("part", pa.int8()),
                *order,
            ]
        )


@dataclass(frozen=True)
class Checked:
    """A chunk, parted."""

    accepted: pa.Table
    """`InteractionRules.schema`."""
    rejected: pa.Table
    """`rejected.SCHEMA`."""


def check(
    chunk: Chunk, file: str, rules: InteractionRules, user_ids: pa.Array, item_ids: pa.Array
) -> Checked:
    """Accepts the rows that follow the rules; ids become rows of the entity tables.

    Raises InputError if a column has a type that can never hold what it should.
    """
    table, columns = chunk.table, rules.columns

    def read(column: str, parse: Callable[[parsing.Column], pa.Array]) -> pa.Array:
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
        values["label"] = pc.greater_equal(values["rating"], rules.positive_rating)
    values.setdefault("rating", values["label"])
    values["part"] = pa.array(np.zeros(table.num_rows, np.int8))
    if rules.split_column is not None:
        named = read(rules.split_column, parsing.texts)
        part = pc.fill_null(pc.index_in(named, pa.array(SPLITS)), NO_PART)
        strange = (part.to_numpy() == NO_PART) & ~nulls(named)
        checks.add(strange, f"{rules.split_column} is not train, valid, test or empty")
        values["part"] = part

    good = pa.array(checks.passed())
    schema = rules.schema()
    accepted = pa.Table.from_arrays(
        [
            (pa.array(rows[name]) if name in rows else values[name]).filter(good).cast(kind)
            for name, kind in zip(schema.names, schema.types, strict=True)
        ],
        schema=schema,
    )
    return Checked(accepted, checks.rejected(chunk, file))


def _places(ids: pa.StringArray, known: pa.StringArray) -> NDArray[np.int32]:
    """Index of each id among the known ones; -1 if it is null or unknown."""
    codes = ids.dictionary_encode()
    index = pc.index_in(codes.dictionary, known).take(codes.indices)
    places: NDArray[np.int32] = pc.fill_null(index, -1).to_numpy()
    return places
