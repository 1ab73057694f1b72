"""A first experiment for unknown tables: which table and column plays which role.

A guess from names, types, numbers of distinct values and shared ids. It is written as a commented
file that a person reads before it runs; what cannot be guessed is an error that says so.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import pyarrow.compute as pc

from lorecast.config import DatasetConfig, ListColumn, Side
from lorecast.data import parsing
from lorecast.data.entities import RESERVED_TEXTS
from lorecast.data.layout import SPLITS
from lorecast.data.movielens import MovieLensSource
from lorecast.data.profiles import Column, Table, named, profile_folder, several_values
from lorecast.errors import InputError

_T = TypeVar("_T")

_USER: Final = (
    *("user", "uid", "customer", "member", "viewer", "visitor", "account", "client", "person"),
    *("people", "reader", "listener", "shopper", "who"),
)
_ITEM: Final = (
    *("item", "iid", "product", "movie", "film", "article", "asin", "sku", "book", "song"),
    *("track", "video", "content", "game", "listing", "thing", "what"),
)
_ID: Final = ("id", "uid", "iid", "asin", "sku", "key", "userid", "itemid", "movieid")
_TIME: Final = ("time", "timestamp", "date", "datetime", "when", "created", "ts", "day")
_RATING: Final = ("rating", "stars", "score", "grade")
_LABEL: Final = ("label", "click", "target", "like", "purchase", "bought", "converted", "positive")
_TITLE: Final = ("title", "name", "headline")
_FILMS: Final = ("film", "movie")

_MIN_OVERLAP: Final = 0.5
_MAX_LEVELS: Final = 50
_MAX_FEATURE_VALUES: Final = 1000
_MAX_TEXT_LENGTH: Final = 400


@dataclass(frozen=True, kw_only=True)
class _Link:
    """A table that describes users or items."""

    table: Table
    key: Column
    overlap: float
    """Share of the ids in the interactions that the table has."""


@dataclass(frozen=True, kw_only=True)
class _Roles:
    """The interactions' table and what its columns are."""

    table: Table
    ids: dict[Side, Column]
    time: Column
    value: Column
    is_label: bool
    part: Column | None


def infer(folder: Path) -> str:
    """An experiment for the tables in `folder`, as commented YAML.

    Raises InputError naming the role for which no column was found.
    """
    if _is_movielens(folder):
        return "\n".join(_movielens_lines(folder)) + "\n"
    tables = profile_folder(folder)
    roles = _find_interactions(folder, tables)
    links = {side: _find_link(roles, side, tables) for side in roles.ids}
    return "\n".join(_lines(folder, tables, roles, links)) + "\n"


def _is_movielens(folder: Path) -> bool:
    try:
        MovieLensSource(DatasetConfig(source="movielens", path=str(folder)))
    except InputError:
        return False
    return True


# ── roles ────────────────────────────────────────────────────────────────────────────────────


def _find_interactions(folder: Path, tables: Sequence[Table]) -> _Roles:
    """The largest table in which every role has a column."""
    missing = {}
    for table in sorted(tables, key=lambda table: -table.num_rows):
        roles = _assign(table, tables)
        if isinstance(roles, _Roles):
            return roles
        missing[table.name] = roles
    told = "; ".join(f"{name} has no column for {role}" for name, role in missing.items())
    raise InputError(
        f"{folder}: no table looks like interactions ({told}); write the mapping by hand, "
        f"`lorecast config --help` lists the keys"
    )


def _assign(table: Table, tables: Sequence[Table]) -> _Roles | str:
    """The roles of a table's columns, or the role that none fits."""
    left = list(table.columns)
    time = _best(
        [c for c in left if c.kind == "time" or (c.may_be_seconds and not c.named(_USER + _ITEM))],
        lambda c: (c.named(_TIME), c.kind == "time"),
    )
    if time is None:
        return "the time"
    part = next((c for c in left if c.kind == "text" and _values(c) >= set(SPLITS)), None)
    left = [c for c in left if c not in (time, part)]
    value = _best(
        [c for c in left if _may_be_value(c)],
        lambda c: (c.named(_RATING + _LABEL), c.kind == "flag"),
    )
    if value is None:
        return "a rating or label"
    left = [c for c in left if c is not value and c.kind in ("integer", "text") and not c.unique]
    item = _best(left, lambda c: _likeness(c, table, tables, _ITEM, _USER))
    left = [c for c in left if c is not item]
    user = _best(left, lambda c: _likeness(c, table, tables, _USER, _ITEM))
    if item is None or user is None:
        return "the ids of users and of items"
    return _Roles(
        table=table,
        ids={"user": user, "item": item},
        time=time,
        value=value,
        is_label=value.kind == "flag",
        part=part,
    )


def _may_be_value(column: Column) -> bool:
    few = 2 <= column.num_distinct <= _MAX_LEVELS
    numeric = column.kind == "flag" or (column.kind in ("integer", "number") and few)
    return numeric and not column.named(_USER + _ITEM)


def _likeness(
    column: Column,
    table: Table,
    tables: Sequence[Table],
    hints: Sequence[str],
    against: Sequence[str],
) -> tuple[bool, bool, bool, bool, int]:
    """How much a column looks like the ids of one side; compared in this order."""
    described = any(_overlap(column, key) >= _MIN_OVERLAP for _, key in _keys(table, tables, hints))
    return (
        column.named(hints),
        column.named(_ID),
        described,
        not column.named(against),
        column.num_distinct,
    )


def _find_link(roles: _Roles, side: Side, tables: Sequence[Table]) -> _Link | None:
    """The table that best describes one side, unless it looks like the other side's."""
    column = roles.ids[side]
    hints, against = (_USER, _ITEM) if side == "user" else (_ITEM, _USER)
    foreign = {id(key) for _, key in _keys(roles.table, tables, against)}
    own = {id(key) for _, key in _keys(roles.table, tables, hints)}
    links = [
        _Link(table=table, key=key, overlap=_overlap(column, key))
        for table, key in _keys(roles.table, tables)
        if id(key) in own or id(key) not in foreign
    ]
    links = [link for link in links if link.overlap >= _MIN_OVERLAP]
    return _best(
        links, lambda link: (id(link.key) in own, link.key.name == column.name, link.overlap)
    )


def _keys(
    table: Table, tables: Sequence[Table], hints: Sequence[str] = ()
) -> Iterator[tuple[Table, Column]]:
    """Columns of other tables that may be ids; with hints, those whose names have one."""
    for other in tables:
        for column in other.columns:
            if other is table or not column.unique or column.kind not in ("integer", "text"):
                continue
            if not hints or column.named(hints) or named(other.name, hints):
                yield other, column


def _overlap(column: Column, key: Column) -> float:
    found = pc.is_in(pc.unique(parsing.ids(column.values)).drop_null(), parsing.ids(key.values))
    return float(pc.mean(found).as_py() or 0.0)


def _values(column: Column) -> set[str]:
    return set(pc.unique(parsing.texts(column.values)).drop_null().to_pylist())


def _best(candidates: Sequence[_T], score: Callable[[_T], tuple[Any, ...]]) -> _T | None:
    """The first of the highest score."""
    return max(candidates, key=score, default=None)


# ── the file ─────────────────────────────────────────────────────────────────────────────────


def _movielens_lines(folder: Path) -> Iterator[str]:
    yield from _head(folder, "Its files are MovieLens', whose columns are known.")
    yield "  source: movielens"
    yield f"  path: {_quote(str(folder.resolve()))}"
    yield from _tail(films=True)


def _lines(
    folder: Path, tables: Sequence[Table], roles: _Roles, links: dict[Side, _Link | None]
) -> Iterator[str]:
    yield from _head(folder, "Every line is a guess from names, types and values: look it over.")
    yield "  source: tables"
    yield f"  path: {_quote(str(folder.resolve()))}"
    yield from _interaction_lines(roles)
    for side, link in links.items():
        if link is None:
            yield f"  # No table describes {side}s: they are known by their ids only."
        else:
            yield from _entity_lines(side, link)
    if roles.part is not None:
        yield f"  split: {{by: column, column: {_quote(roles.part.name)}}}"
    else:
        yield "  split: {by: user, valid: 0.1, test: 0.1}  # by: time tests on the latest samples"
    used = {roles.table.name, *(link.table.name for link in links.values() if link)}
    if unused := [table.name for table in tables if table.name not in used]:
        yield f"  # Not used: {', '.join(unused)}"
    names = [table.name for table in tables]
    yield from _tail(films=any(named(name, _FILMS) for name in names))


def _head(folder: Path, remark: str) -> Iterator[str]:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).strip("-._") or "mine"
    yield f"# An experiment on the tables in {folder.name}, written by `lorecast init`."
    yield f"# {remark}"
    yield "# All keys and their defaults: `lorecast config --help`."
    yield f"name: {_quote(name)}"
    yield "dataset:"


def _interaction_lines(roles: _Roles) -> Iterator[str]:
    user, item = roles.ids["user"], roles.ids["item"]
    yield f"  interactions:  # about {roles.table.num_rows:,} rows"
    yield f"    file: {_quote(roles.table.name)}"
    yield f"    user: {_quote(user.name)}  # {_count(user)} in the rows looked at"
    yield f"    item: {_quote(item.name)}  # {_count(item)}"
    if roles.is_label:
        yield f"    label: {_quote(roles.value.name)}"
    else:
        yield f"    rating: {_quote(roles.value.name)}"
    yield f"    timestamp: {_quote(roles.time.name)}"
    if not roles.is_label:
        level, share = _positive_rating(roles.value)
        yield f"  positive_rating: {level:g}  # from here on a rating is a like: {share:.0%} are"


def _entity_lines(side: Side, link: _Link) -> Iterator[str]:
    columns = [c for c in link.table.columns if c is not link.key]
    title = None
    if side == "item":
        texts = [c for c in columns if c.kind == "text" and c.mean_length <= _MAX_TEXT_LENGTH]
        title = _best(texts, lambda c: (c.named(_TITLE), c.num_distinct))
    columns = [c for c in columns if c is not title]
    multi = {c.name: found for c in columns if (found := _as_categories(c))}
    shown = [c for c in columns if _may_be_text(c) or c.name in multi]
    features = [c for c in columns if c.name not in multi and _may_be_feature(c)]
    numbers = [c for c in columns if c.kind in ("integer", "number") and c not in features]
    yield f"  {side}s:  # has {link.overlap:.0%} of the ids above"
    yield f"    file: {_quote(link.table.name)}"
    yield f"    id: {_quote(link.key.name)}"
    if title is not None:
        yield f"    title: {_quote(title.name)}  # what the language model is told"
    yield f"    text: {_quote_all(shown)}  # what prompts may show besides"
    yield f"    features: {_quote_all(features)}  # categories that the click model embeds"
    if multi:
        listed = ", ".join(map(_list_column, multi.values()))
        yield f"    multi: [{listed}]  # likewise, several a row"
    if numbers:
        yield f"    # numeric: {_quote_all(numbers)}  # unless clicks decide them: they would leak"


def _may_be_text(column: Column) -> bool:
    short = column.kind == "text" and column.mean_length <= _MAX_TEXT_LENGTH
    return (short or _may_be_feature(column)) and column.name not in RESERVED_TEXTS


def _as_categories(column: Column) -> ListColumn | None:
    if column.kind == "other" or (column.kind == "text" and column.mean_length <= _MAX_TEXT_LENGTH):
        return several_values(column, _MAX_FEATURE_VALUES)
    return None


def _list_column(column: ListColumn) -> str:
    if column.separator is None:
        return _quote(column.column)
    return f"{{column: {_quote(column.column)}, separator: {_quote(column.separator)}}}"


def _may_be_feature(column: Column) -> bool:
    """Few values, each shared by several rows. Counts and scores are left out: they may leak."""
    most = _MAX_LEVELS if column.kind == "integer" else _MAX_FEATURE_VALUES
    few = 2 <= column.num_distinct <= min(most, len(column.values) // 2)
    return column.kind in ("text", "flag", "integer") and few


def _positive_rating(column: Column) -> tuple[float, float]:
    """4 of 5 stars; on other scales the level that parts the ratings most evenly."""
    values = parsing.numbers(column.values).drop_null().to_numpy()
    levels = np.unique(values)
    shares = np.array([np.mean(values >= level) for level in levels])
    five_stars = levels[-1] == 5 and levels[0] >= 0 and 4 in levels
    place = int(np.flatnonzero(levels == 4)[0]) if five_stars else int(abs(shares - 0.5).argmin())
    return float(levels[place]), float(shares[place])


def _tail(*, films: bool) -> Iterator[str]:
    yield "# Begin with the click model alone. Then let a language model write what it knows, by"
    yield "# a factor set of your own (`factors.yaml`, `item.j2`, `user.j2`):"
    yield "#   knowledge:"
    yield "#     fields:"
    for side, field in (("item", "item_facts"), ("user", "user_preference")):
        factor_set = "films" if films else "FOLDER"
        yield f"#       - {{kind: generate, name: {field}, side: {side}, factor_set: {factor_set}}}"
    yield "#     llm: {model: MODEL, max_model_len: 2048, max_tokens: 128}"
    yield "#   training: {strategies: [base, all_parameters]}"
    yield "knowledge: {fields: []}"
    yield "training: {strategies: [base]}"


def _count(column: Column) -> str:
    return f"{column.num_distinct:,} different"


def _quote(text: str) -> str:
    plain = re.fullmatch(r"[A-Za-z_/][\w./-]*", text)
    literal = text.lower() in ("true", "false", "yes", "no", "on", "off", "null", "y", "n")
    return text if plain and not literal else json.dumps(text, ensure_ascii=False)


def _quote_all(columns: Sequence[Column]) -> str:
    return f"[{', '.join(_quote(column.name) for column in columns)}]"
