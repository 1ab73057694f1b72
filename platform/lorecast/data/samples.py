"""From timelines to the rows of a prepared dataset (schemas in `layout`)."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lorecast.data.histories import Timelines, windows
from lorecast.data.layout import fixed_lists, past_schema, sample_schema


def sample_index(lines: Timelines, prefix_U: NDArray[np.int64]) -> NDArray[np.int64]:
    """Places of the interactions that become samples: all after their user's prefix."""
    return np.flatnonzero(lines.position_N >= np.repeat(prefix_U, lines.length_U))


def sample_table(
    lines: Timelines,
    index_B: NDArray[np.int64],
    history_length: int,
    contexts: Sequence[str] = (),
) -> pa.Table:
    """The samples at these places, with the history before each and the named context."""
    position_B = lines.position_N[index_B]
    if lines.history_NL is None:
        item_BL = windows(lines.item_row_N, index_B, position_B, history_length)
        rating_BL = windows(lines.rating_N, index_B, position_B, history_length)
    else:
        item_BL = lines.history_NL[index_B]
        rating_BL = np.zeros(item_BL.shape, np.int8)
    context_BK = np.empty((index_B.size, 0), np.int32)
    if lines.context_NK is not None:
        context_BK = lines.context_NK[index_B]
    return pa.Table.from_arrays(
        [
            pa.array(lines.user_row_N[index_B]),
            pa.array(lines.item_row_N[index_B]),
            pa.array(lines.label_N[index_B]),
            pa.array(lines.timestamp_N[index_B]),
            pa.array(position_B),
            fixed_lists(item_BL),
            fixed_lists(rating_BL),
            *map(pa.array, context_BK.T),
        ],
        schema=sample_schema(history_length, contexts),
    )


def past_table(
    lines: Timelines, prefix_U: NDArray[np.int64], history_length: int
) -> tuple[NDArray[np.int32], pa.Table]:
    """User rows, and what users.parquet says of these users' interactions."""
    end_U = lines.start_U + lines.length_U
    shown_N = lines.position_N < np.repeat(prefix_U, lines.length_U)
    offsets = np.concatenate(([0], np.cumsum(prefix_U))).astype(np.int32)
    if lines.history_NL is None:
        recent = [
            windows(values_N, end_U, lines.length_U, history_length)
            for values_N in (lines.item_row_N, lines.rating_N)
        ]
    else:
        recent = [_after_the_last(lines), np.zeros((end_U.size, history_length), np.int8)]
    table = pa.Table.from_arrays(
        [
            pa.array((prefix_U - 1).astype(np.int32)),
            pa.ListArray.from_arrays(offsets, pa.array(lines.item_row_N[shown_N])),
            pa.ListArray.from_arrays(offsets, pa.array(lines.rating_N[shown_N])),
            *map(fixed_lists, recent),
            pa.array(lines.order_N[end_U - 1]),
        ],
        schema=past_schema(history_length),
    )
    return lines.user_row_U, table


def empty_past(num_users: int, history_length: int) -> pa.Table:
    """The same columns for users without interactions."""
    nothing = np.zeros(num_users + 1, np.int32)
    padding = np.zeros((num_users, history_length), np.int8)
    return pa.Table.from_arrays(
        [
            pa.array(np.full(num_users, -1, np.int32)),
            pa.ListArray.from_arrays(nothing, pa.array([], pa.int32())),
            pa.ListArray.from_arrays(nothing, pa.array([], pa.int8())),
            fixed_lists(padding.astype(np.int32)),
            fixed_lists(padding),
            pa.nulls(num_users, pa.int64()),
        ],
        schema=past_schema(history_length),
    )


def _after_the_last(lines: Timelines) -> NDArray[np.int32]:
    """Of each user, the given history of the last interaction, and its item if it was liked."""
    assert lines.history_NL is not None
    last_U = lines.start_U + lines.length_U - 1
    item_UL: NDArray[np.int32] = lines.history_NL[last_U]
    liked_U = lines.label_N[last_U] == 1
    item_UL[liked_U, :-1] = item_UL[liked_U, 1:]
    item_UL[liked_U, -1] = lines.item_row_N[last_U[liked_U]]
    return item_UL
