"""Tables of a model's entities that grow: new and changed users and items, and later clicks.

Rows stay what they are; new entities take the rows behind the last. Tables are those of a bundle:
id, title (items), features, and of users `layout.past_schema`'s recent_* and last_order.

Legend: G given entities, N clicks, U users with row 0, L history.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lorecast.config import Side
from lorecast.data.coding import Coding
from lorecast.data.entities import Entities
from lorecast.data.histories import Timelines, extended
from lorecast.data.layout import LAST_ORDER, fixed_lists
from lorecast.data.samples import past_table

_NEVER = np.iinfo(np.int64).min
_ITEMS, _RATINGS = "recent_item_rows", "recent_ratings"


@dataclass(frozen=True, kw_only=True)
class Joined:
    """One side, with the entities that joined or changed."""

    table: pa.Table
    """All, in row order."""
    given: pa.Table
    """As they were given, in the order of `row_G`: id, title (items) and texts for prompts."""
    row_G: NDArray[np.int32]
    num_before: int

    @classmethod
    def nobody(cls, base: pa.Table) -> Self:
        """The table as it is."""
        none = base.schema.empty_table()
        return cls(table=base, given=none, row_G=np.empty(0, np.int32), num_before=base.num_rows)

    @property
    def is_new_G(self) -> NDArray[np.bool_]:
        """Which were not known before."""
        return self.row_G > self.num_before

    @property
    def ids(self) -> pa.StringArray:
        return self.table["id"].combine_chunks().cast(pa.string())


def join(
    base: pa.Table,
    described: pa.Table,
    entities: Entities,
    coding: Coding,
    side: Side,
    changed_before: Sequence[int] = (),
) -> Joined:
    """The side's table with these entities.

    Known ones that say nothing new are left out. What texts for prompts said is looked up of items
    alone, since texts about known users stay: in `described`, the prepared dataset's table, which
    has the first rows of `base`, and describes those in `changed_before` no longer.
    """
    given = _told(entities, side)
    place = pc.fill_null(pc.index_in(given["id"], value_set=base["id"].combine_chunks()), -1)
    row_G = place.to_numpy().astype(np.int32) + 1
    is_new = row_G == 0
    row_G[is_new] = base.num_rows + 1 + np.arange(is_new.sum())
    columns = {"id": given["id"], **coding.columns(entities, base.schema)}
    if side == "item":
        columns["title"] = given["title"]
    else:
        columns |= _pasts(base, row_G)
    lines = pa.table(columns).select(base.column_names).cast(base.schema)
    changed = is_new | _say_else(base, lines, row_G)
    if side == "item" and entities.texts:
        is_described = (row_G <= described.num_rows) & ~np.isin(row_G, changed_before)
        changed |= ~is_described | _say_else(described, given, row_G)
    kept = pa.array(np.flatnonzero(changed))
    row_G = row_G[changed]
    return Joined(
        table=_replaced(base, lines.take(kept), row_G),
        given=given.take(kept),
        row_G=row_G,
        num_before=base.num_rows,
    )


@dataclass(frozen=True)
class Later:
    """Which clicks go on from where the model's histories end."""

    is_late_N: NDArray[np.bool_]
    """Older than what the model has of their user."""
    is_repeated_N: NDArray[np.bool_]
    """There twice, or the model has it already."""

    @property
    def counts_N(self) -> NDArray[np.bool_]:
        """Those that are neither."""
        return ~(self.is_late_N | self.is_repeated_N)


def later_clicks(
    users: pa.Table,
    user_row_N: NDArray[np.int32],
    item_row_N: NDArray[np.int32],
    order_N: NDArray[np.int64],
) -> Later:
    """Holds clicks against the users' table; a bundle that does not say when its histories end
    takes all for later ones."""
    last_U = np.full(users.num_rows + 1, _NEVER)
    if LAST_ORDER in users.column_names:
        last_U[1:] = pc.fill_null(users[LAST_ORDER], _NEVER).to_numpy()
    last_N = last_U[user_row_N]
    has_N = np.zeros(len(order_N), bool)
    at_once = np.flatnonzero(order_N == last_N)
    recent_BL = _lists(users[_ITEMS].take(pa.array(user_row_N[at_once] - 1)))
    has_N[at_once] = (recent_BL == item_row_N[at_once, None]).any(1)
    clicks_N3 = np.column_stack([user_row_N, item_row_N, order_N])
    is_first_N = np.zeros(len(order_N), bool)
    is_first_N[np.unique(clicks_N3, axis=0, return_index=True)[1]] = True
    is_late_N: NDArray[np.bool_] = order_N < last_N
    return Later(is_late_N, (has_N | ~is_first_N) & ~is_late_N)


def with_clicks(users: pa.Table, lines: Timelines) -> pa.Table:
    """The users' table with these later clicks at the end of the histories.

    Histories that a column gives are replaced by those of the users' last rows.
    """
    row_T, length = lines.user_row_U, users[_ITEMS].type.list_size
    recent_UL, level_UL = _lists(users[_ITEMS]).copy(), _lists(users[_RATINGS]).copy()
    if lines.history_NL is None:
        owner_V = np.repeat(np.arange(row_T.size), lines.length_U)
        recent_UL[row_T - 1], level_UL[row_T - 1] = extended(
            recent_UL[row_T - 1], level_UL[row_T - 1], owner_V, lines.item_row_N, lines.rating_N
        )
    else:
        _, past = past_table(lines, np.zeros_like(lines.length_U), length)
        recent_UL[row_T - 1] = _lists(past[_ITEMS])
        level_UL[row_T - 1] = 0
    changed = {_ITEMS: fixed_lists(recent_UL), _RATINGS: fixed_lists(level_UL)}
    if LAST_ORDER in users.column_names:
        last_U = pc.fill_null(users[LAST_ORDER], _NEVER).to_numpy().copy()
        last_U[row_T - 1] = lines.order_N[lines.start_U + lines.length_U - 1]
        changed[LAST_ORDER] = pa.array(last_U, mask=last_U == _NEVER)
    for name, column in changed.items():
        place = users.column_names.index(name)
        users = users.set_column(place, users.schema.field(name), column)
    return users


def _told(entities: Entities, side: Side) -> pa.Table:
    """What prompts may show: id, title (items) and texts."""
    if side == "item":
        return entities.item_table().select(["id", "title", *entities.texts])
    return pa.table({"id": entities.ids, **entities.texts})


def _pasts(base: pa.Table, row_G: NDArray[np.int32]) -> dict[str, pa.Array]:
    """What the table says of these users' clicks; of new ones nothing."""
    found: dict[str, pa.Array] = {}
    known = row_G <= base.num_rows
    for name in (_ITEMS, _RATINGS):
        values_UL = _lists(base[name])
        lines_GL = np.zeros((row_G.size, values_UL.shape[1]), values_UL.dtype)
        lines_GL[known] = values_UL[row_G[known] - 1]
        found[name] = fixed_lists(lines_GL)
    if LAST_ORDER in base.column_names:
        place = pa.array(row_G - 1, mask=~known)
        found[LAST_ORDER] = base[LAST_ORDER].combine_chunks().take(place)
    return found


def _replaced(base: pa.Table, lines: pa.Table, row_G: NDArray[np.int32]) -> pa.Table:
    """`base` with these lines in the place of rows, or behind the last."""
    place = np.arange(max(base.num_rows, row_G.max(initial=0)))
    place[row_G - 1] = base.num_rows + np.arange(row_G.size)
    return pa.concat_tables([base, lines]).take(pa.array(place)).combine_chunks()


def _say_else(known: pa.Table, lines: pa.Table, row_G: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Which lines say something else than their row, in the columns that both tables have."""
    say_else_G = np.zeros(row_G.size, bool)
    common = np.flatnonzero(row_G <= known.num_rows)
    for name in set(lines.column_names) & set(known.column_names):
        before = known[name].take(pa.array(row_G[common] - 1))
        say_else_G[common] |= _differ(before, lines[name].take(pa.array(common)))
    return say_else_G


def _differ(before: pa.ChunkedArray, after: pa.ChunkedArray) -> NDArray[np.bool_]:
    if pa.types.is_fixed_size_list(before.type):
        differ: NDArray[np.bool_] = (_lists(before) != _lists(after)).any(1)
        return differ
    same = pc.fill_null(pc.equal(before, after), False)
    both_missing = pc.and_(before.is_null(), after.is_null())
    return ~np.asarray(pc.or_(same, both_missing), bool)


def _lists(column: pa.ChunkedArray) -> NDArray[np.int32]:
    """[rows, L] of a column of lists of fixed size."""
    flat: NDArray[np.int32] = column.combine_chunks().flatten().to_numpy()
    return flat.reshape(-1, column.type.list_size)
