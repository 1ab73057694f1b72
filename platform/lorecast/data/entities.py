"""Users and items: ids in row order, texts for prompts, features for the model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lorecast.config import EntityColumns, Side
from lorecast.data import parsing
from lorecast.data.files import Chunk, TableFiles
from lorecast.data.layout import fixed_lists, item_schema, user_schema
from lorecast.data.rejected import RowChecks, nulls
from lorecast.data.scaling import Scale, standardise, trained_entities
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
    multi: Mapping[str, pa.ListArray] = field(default_factory=dict)
    """Texts, none twice and at most as many as count."""
    num_cut: Mapping[str, int] = field(default_factory=dict)
    """Entities that lost values of a multi-valued feature, where there are any."""
    numeric: Mapping[str, pa.Array] = field(default_factory=dict)
    """Numbers as they are, null where missing; see `standardised`."""
    rejected: pa.Table | None = None
    """`rejected.SCHEMA`."""
    num_read: int = 0
    """Rows of the table, rejected ones included; 0 if there is no table."""

    def vocabularies(self) -> dict[str, list[str]]:
        """The values of each feature, sorted; the code of a value is its index + 1."""
        return {name: _vocabulary(values) for name, values in self.features.items()}

    def multi_vocabularies(self) -> dict[str, list[str]]:
        """The same for multi-valued features."""
        return {name: _vocabulary(lists.flatten()) for name, lists in self.multi.items()}

    def standardised(self, dataset: Path, side: Side) -> tuple["Entities", dict[str, Scale]]:
        """The same with numbers on the scale of the entities in the training samples that lie in
        the folder of the dataset; and these scales."""
        if not self.numeric:
            return self, {}
        trained = trained_entities(dataset, side, len(self.ids))
        key = f"dataset.{side}s.numeric"
        scaled = {
            name: standardise(values, trained, name, key) for name, values in self.numeric.items()
        }
        numeric = {name: values for name, (values, _) in scaled.items()}
        return replace(self, numeric=numeric), {name: scale for name, (_, scale) in scaled.items()}

    def item_table(self) -> pa.Table:
        """items.parquet. An item without a title is called by its id."""
        titles = self.ids if self.titles is None else pc.coalesce(self.titles, self.ids)
        columns = self._columns()
        schema = item_schema(self.texts, self.features, self._widths(), self.numeric)
        return pa.Table.from_arrays([self.ids, titles, *columns], schema=schema)

    def user_table(self, past: pa.Table, history_length: int) -> pa.Table:
        """users.parquet, with what the interactions say (`layout.past_schema`)."""
        schema = user_schema(
            self.texts, self.features, history_length, self._widths(), self.numeric
        )
        return pa.Table.from_arrays([self.ids, *self._columns(), *past.columns], schema=schema)

    def _columns(self) -> list[pa.Array]:
        """Texts and features, in the order of the schemas."""
        vocabularies, multi = self.vocabularies(), self.multi_vocabularies()
        return [
            *self.texts.values(),
            *(codes(values, vocabularies[name]) for name, values in self.features.items()),
            *(code_lists(lists, multi[name], longest(lists)) for name, lists in self.multi.items()),
            *self.numeric.values(),
        ]

    def _widths(self) -> dict[str, int]:
        return {name: longest(lists) for name, lists in self.multi.items()}


def read_entities(files: TableFiles, side: Side, columns: EntityColumns) -> Entities:
    """The entities of a table, in its order: rows without an id and repeated ids are left out.

    Raises InputError for a missing column, a column of a wrong type or a table without rows.
    """
    key = f"dataset.{side}s"
    if side == "user" and columns.title is not None:
        raise ConfigError(f"{key}.title: users have no title; list {columns.title!r} in {key}.text")
    titles = (columns.title,) if columns.title else ()
    multi = (column.column for column in columns.multi)
    described = (*columns.text, *columns.features, *multi, *columns.numeric)
    used = tuple(dict.fromkeys((columns.id, *titles, *described)))
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

    def read(column: str, parse: Callable[[parsing.Column], pa.Array]) -> pa.Array:
        try:
            return parse(chunk.table[column])
        except TypeError as error:
            raise InputError(
                f"{file}: column {column!r} is {chunk.table.schema.field(column).type}, "
                f"expected {error}"
            ) from None
        except ValueError as error:
            raise InputError(
                f"{file}: column {column!r} {error}: mend it or leave it empty"
            ) from None

    ids = read(columns.id, parsing.ids)
    code_N = pc.fill_null(ids.dictionary_encode().indices, -1).to_numpy()
    repeated = np.ones(len(ids), np.bool_)
    repeated[np.unique(code_N, return_index=True)[1]] = False
    checks = RowChecks(len(ids))
    checks.add(nulls(ids), f"{columns.id} is empty")
    checks.add(repeated, f"{columns.id} is repeated")
    keep = pa.array(checks.passed())
    if not checks.passed().any():
        raise InputError(f"{file}: no row has an id in column {columns.id!r}")
    multi = {}
    for column in columns.multi:
        parse = partial(parsing.text_lists, separator=column.separator)
        multi[column.column] = read(column.column, parse).filter(keep)
        if not len(multi[column.column].flatten()):
            raise InputError(
                f"{file}: column {column.column!r} (named in dataset.{side}s.multi) has no value"
            )
    return Entities(
        ids=ids.filter(keep),
        titles=read(columns.title, parsing.texts).filter(keep) if columns.title else None,
        texts={name: read(name, parsing.said).filter(keep) for name in columns.text},
        features={name: read(name, parsing.categories).filter(keep) for name in columns.features},
        multi={name: pc.list_slice(lists, 0, columns.multi_max) for name, lists in multi.items()},
        num_cut=_num_longer(multi, columns.multi_max),
        numeric={name: read(name, parsing.finite).filter(keep) for name in columns.numeric},
        rejected=checks.rejected(chunk, file),
        num_read=len(ids) + len(chunk.malformed),
    )


def known_only_by_id(ids: pa.StringArray) -> Entities:
    """Entities that only interactions mention, in the order of their ids; numbers as numbers."""
    numeric = pc.match_substring_regex(ids, "^[0-9]{1,18}$")
    if pc.all(numeric).as_py():
        return Entities(ids=ids.take(pc.sort_indices(ids.cast(pa.int64()))))
    return Entities(ids=ids.sort())


def _num_longer(multi: Mapping[str, pa.ListArray], most: int) -> dict[str, int]:
    longer = {
        name: int((pc.list_value_length(lists).to_numpy() > most).sum())
        for name, lists in multi.items()
    }
    return {name: count for name, count in longer.items() if count}


def _vocabulary(values: pa.StringArray) -> list[str]:
    found: list[str] = pc.unique(values).drop_null().sort().to_pylist()
    return found


def codes(values: pa.StringArray, vocabulary: Sequence[str]) -> pa.Int32Array:
    """Of each value its place in the vocabulary from 1; 0 where it is missing or not there."""
    places = pc.index_in(values, pa.array(vocabulary, pa.string()))
    return pc.add(pc.fill_null(places, -1), 1).cast(pa.int32())


def code_lists(lists: pa.ListArray, vocabulary: Sequence[str], width: int) -> pa.FixedSizeListArray:
    """Codes on the left, 0 behind them; no list is longer than `width`."""
    owner_V = pc.list_parent_indices(lists).to_numpy()
    lengths = pc.list_value_length(lists).to_numpy()
    place_V = np.arange(owner_V.size) - (lengths.cumsum() - lengths)[owner_V]
    code_RW = np.zeros((len(lists), width), np.int32)
    code_RW[owner_V, place_V] = codes(lists.flatten(), vocabulary).to_numpy()
    return fixed_lists(code_RW)


def longest(lists: pa.ListArray) -> int:
    """Values of the longest list."""
    return int(pc.list_value_length(lists).to_numpy().max())
