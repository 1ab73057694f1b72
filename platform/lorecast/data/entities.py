"""Users and items: ids in row order, texts for prompts, features for the model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lorecast.config import EntityColumns, Side
from lorecast.data import parsing
from lorecast.data.files import Chunk, TableFiles
from lorecast.data.layout import FEATURE_PREFIX, item_schema, user_schema
from lorecast.data.rejected import RowChecks, nulls
from lorecast.errors import ConfigError, InputError

RESERVED_TEXTS: Final = frozenset(item_schema((), ()).names + user_schema((), (), 1).names)
"""Names that text columns cannot have: the prepared tables use them."""


@dataclass(frozen=True, kw_only=True)
class Entities:
    """All users or all items. Entity i (from 0) has row i + 1."""

    ids: pa.StringArray
    titles: pa.StringArray | None = None
    """Items only; null where there is none."""
    texts: Mapping[str, pa.StringArray] = field(default_factory=dict)
    features: Mapping[str, pa.StringArray] = field(default_factory=dict)
    rejected: pa.Table | None = None
    """`rejected.SCHEMA`."""
    num_read: int = 0
    """Rows of the table, rejected ones included; 0 if there is no table."""

    def vocabularies(self) -> dict[str, list[str]]:
        """The values of each feature, sorted; the code of a value is its index + 1."""
        return {
            name: pc.unique(values).drop_null().sort().to_pylist()
            for name, values in self.features.items()
        }

    def codes(self) -> dict[str, pa.Int32Array]:
        """Feature columns by the names they have on disk."""
        return {
            FEATURE_PREFIX + name: pc.add(
                pc.fill_null(pc.index_in(self.features[name], pa.array(values, pa.string())), -1), 1
            ).cast(pa.int32())
            for name, values in self.vocabularies().items()
        }

    def item_table(self) -> pa.Table:
        """items.parquet. An item without a title is called by its id."""
        titles = self.ids if self.titles is None else pc.coalesce(self.titles, self.ids)
        return pa.Table.from_arrays(
            [self.ids, titles, *self.texts.values(), *self.codes().values()],
            schema=item_schema(self.texts, self.features),
        )

    def user_table(self, past: pa.Table, history_length: int) -> pa.Table:
        """users.parquet, with what the interactions say (`layout.past_schema`)."""
        return pa.Table.from_arrays(
            [self.ids, *self.texts.values(), *self.codes().values(), *past.columns],
            schema=user_schema(self.texts, self.features, history_length),
        )


def read_entities(files: TableFiles, side: Side, columns: EntityColumns) -> Entities:
    """The entities of a table, in its order: rows without an id and repeated ids are left out.

    Raises InputError for a missing column, a column of a wrong type or a table without rows.
    """
    key = f"dataset.{side}s"
    if side == "user" and columns.title is not None:
        raise ConfigError(f"{key}.title: users have no title; list {columns.title!r} in {key}.text")
    titles = (columns.title,) if columns.title else ()
    used = tuple(dict.fromkeys((columns.id, *titles, *columns.text, *columns.features)))
    files.require(used, key)
    chunk = files.read(used)
    return entities_of(chunk, str(files), side, columns)


def entities_of(chunk: Chunk, file: str, side: Side, columns: EntityColumns) -> Entities:
    """The entities in a table already read from `file`; see `read_entities`."""
    if taken := RESERVED_TEXTS.intersection(columns.text):
        name = sorted(taken)[0]
        raise InputError(
            f"{file}: the text column {name!r} (named in dataset.{side}s.text) has a name that "
            f"the prepared tables use; rename it"
        )

    def read(column: str, parse: Callable[[parsing.Column], pa.Array]) -> pa.StringArray:
        try:
            return parse(chunk.table[column])
        except TypeError as error:
            raise InputError(
                f"{file}: column {column!r} is {chunk.table.schema.field(column).type}, "
                f"expected {error}"
            ) from None

    ids = read(columns.id, parsing.ids)
    codes = pc.fill_null(ids.dictionary_encode().indices, -1).to_numpy()
    repeated = np.ones(len(ids), np.bool_)
    repeated[np.unique(codes, return_index=True)[1]] = False
    checks = RowChecks(len(ids))
    checks.add(nulls(ids), f"{columns.id} is empty")
    checks.add(repeated, f"{columns.id} is repeated")
    keep = pa.array(checks.passed())
    if not checks.passed().any():
        raise InputError(f"{file}: no row has an id in column {columns.id!r}")
    return Entities(
        ids=ids.filter(keep),
        titles=read(columns.title, parsing.texts).filter(keep) if columns.title else None,
        texts={name: read(name, parsing.texts).filter(keep) for name in columns.text},
        features={name: read(name, parsing.texts).filter(keep) for name in columns.features},
        rejected=checks.rejected(chunk, file),
        num_read=len(ids) + len(chunk.malformed),
    )


def known_only_by_id(ids: pa.StringArray) -> Entities:
    """Entities that only interactions mention, in the order of their ids; numbers as numbers."""
    numeric = pc.match_substring_regex(ids, "^[0-9]{1,18}$")
    if pc.all(numeric).as_py():
        return Entities(ids=ids.take(pc.sort_indices(ids.cast(pa.int64()))))
    return Entities(ids=ids.sort())
