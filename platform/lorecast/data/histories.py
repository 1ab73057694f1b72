"""Interactions in each user's order, and the windows before them, all as numpy.

Legend: N interactions, U users, B samples, L history, K context features.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Timelines:
    """Interactions grouped by user, oldest first inside each."""

    user_row_N: NDArray[np.int32]
    item_row_N: NDArray[np.int32]
    rating_N: NDArray[np.int8]
    """Rating level codes, from 1."""
    label_N: NDArray[np.int8]
    timestamp_N: NDArray[np.int64]
    order_N: NDArray[np.int64]
    """What a user's interactions are sorted by."""
    part_N: NDArray[np.int8]
    """Split the interaction asks for (split by column); otherwise unused."""
    position_N: NDArray[np.int32]
    """Rank inside the user, from 0."""
    start_U: NDArray[np.int64]
    """Where each user begins."""
    length_U: NDArray[np.int64]
    history_NL: NDArray[np.int32] | None = None
    """The items before each, newest last, where a column gives them; none: the user's own."""
    context_NK: NDArray[np.int32] | None = None
    """Codes of the moment's categories; none: there are no such."""

    @property
    def user_row_U(self) -> NDArray[np.int32]:
        return self.user_row_N[self.start_U]

    def of_users_from(self, first_row: int) -> "Timelines":
        """Those of users from this row on, who count from 1 then."""
        own_N, own_U = self.user_row_N >= first_row, self.user_row_U >= first_row
        length_U = self.length_U[own_U]
        columns: dict[str, Any] = {
            name: None if values is None else values[own_N]
            for name, values in vars(self).items()
            if not name.endswith("_U")
        }
        columns["user_row_N"] -= first_row - 1
        return Timelines(**columns, start_U=np.cumsum(length_U) - length_U, length_U=length_U)


def timelines(
    *,
    rank_N: NDArray[np.int64],
    order_N: NDArray[np.int64],
    user_row_N: NDArray[np.int32],
    item_row_N: NDArray[np.int32],
    rating_N: NDArray[np.int8],
    label_N: NDArray[np.int8],
    timestamp_N: NDArray[np.int64],
    part_N: NDArray[np.int8],
    history_NL: NDArray[np.int32] | None = None,
    context_NK: NDArray[np.int32] | None = None,
) -> Timelines:
    """Sorts by the user's rank, then by order; equal orders keep the order they came in."""
    by_user = np.lexsort((order_N, rank_N))
    user_row_N = user_row_N[by_user]
    changes = np.flatnonzero(np.diff(user_row_N)) + 1
    start_U = np.concatenate(([0], changes)) if user_row_N.size else np.empty(0, np.int64)
    length_U = np.diff(start_U, append=user_row_N.size)
    position_N = np.arange(user_row_N.size) - np.repeat(start_U, length_U)
    return Timelines(
        user_row_N=user_row_N,
        item_row_N=item_row_N[by_user],
        rating_N=rating_N[by_user],
        label_N=label_N[by_user],
        timestamp_N=timestamp_N[by_user],
        order_N=order_N[by_user],
        part_N=part_N[by_user],
        position_N=position_N.astype(np.int32),
        start_U=start_U,
        length_U=length_U,
        history_NL=None if history_NL is None else history_NL[by_user],
        context_NK=None if context_NK is None else context_NK[by_user],
    )


def prefix_lengths(length_U: NDArray[np.int64], share: float, most: int) -> NDArray[np.int64]:
    """How many of a user's earliest interactions prompts may show: min((n + 1) * share, most).

    Rounded down and never above n. Samples begin right after the prefix.
    Source: KAR's preprocessing of MovieLens-1M (share 0.5, most 30).
    """
    wanted_U = np.floor((length_U + 1) * share).astype(np.int64)
    prefix_U: NDArray[np.int64] = np.minimum(np.minimum(wanted_U, most), length_U)
    return prefix_U


def windows(
    values_N: NDArray[np.generic],
    end_B: NDArray[np.integer],
    depth_B: NDArray[np.integer],
    length: int,
) -> NDArray[np.generic]:
    """The `length` values before each `end`, newest last: [B, L].

    Only the last `depth` of them belong to the user; what lies before is 0 (padding on the left).
    """
    padded = np.concatenate((np.zeros(length, values_N.dtype), values_N))
    window_BL: NDArray[np.generic] = sliding_window_view(padded, length)[end_B]
    window_BL[np.arange(length) < length - depth_B[:, None]] = 0
    return window_BL


def extended(
    recent_UL: NDArray[np.int32],
    level_UL: NDArray[np.int32],
    owner_V: NDArray[np.integer],
    item_row_V: NDArray[np.integer],
    level_V: NDArray[np.integer],
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """(recent_UL, level_UL) with later entries behind, of which the last L stay.

    Histories are newest last, padded with 0 on the left; `owner_V` ascends, each owner's entries
    come oldest first.
    """
    num_owners, length = recent_UL.shape
    before_U, place_U = np.nonzero(recent_UL)
    owners = np.concatenate([before_U, owner_V])
    order = np.argsort(owners, kind="stable")
    rows = np.concatenate([recent_UL[before_U, place_U], item_row_V])[order]
    levels = np.concatenate([level_UL[before_U, place_U], level_V])[order]
    column, kept = last_places(owners[order], num_owners, length)
    grown = np.zeros((2, num_owners, length), np.int32)
    grown[:, owners[order][kept], column[kept]] = rows[kept], levels[kept]
    return grown[0], grown[1]


def last_places(
    owner_V: NDArray[np.integer], num_owners: int, length: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Columns of entries in an array [owners, L] with each owner's last on the right, and which
    entries are among their owner's last `length`. `owner_V` ascends."""
    end_U = np.bincount(owner_V, minlength=num_owners).cumsum()
    column_V = length - (end_U[owner_V] - np.arange(owner_V.size))
    return column_V, column_V >= 0
