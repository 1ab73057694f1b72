"""Timelines, prefixes and windows against a plain loop."""

from itertools import groupby

import numpy as np
import pytest

from lorecast.data.histories import Timelines, prefix_lengths, timelines, windows
from lorecast.data.samples import empty_past, past_table, sample_index, sample_table

LENGTH = 4


def _random_lines(rng: np.random.Generator, order: np.ndarray | None = None) -> Timelines:
    count = 200
    return timelines(
        rank_N=(user := rng.integers(1, 15, count).astype(np.int32)).astype(np.int64),
        order_N=rng.integers(0, 30, count) if order is None else order,
        user_row_N=user,
        item_row_N=rng.integers(1, 99, count).astype(np.int32),
        rating_N=rng.integers(1, 6, count).astype(np.int8),
        label_N=rng.integers(0, 2, count).astype(np.int8),
        timestamp_N=rng.integers(0, 10**9, count),
        part_N=np.zeros(count, np.int8),
    )


def _naive_windows(values: list[int], users: list[int], index: list[int]) -> list[list[int]]:
    found = []
    for place in index:
        before = [
            v for v, u in zip(values[:place], users[:place], strict=True) if u == users[place]
        ]
        last = before[-LENGTH:]
        found.append([0] * (LENGTH - len(last)) + last)
    return found


@pytest.mark.parametrize("seed", range(5))
def test_histories_equal_a_plain_loop(seed: int) -> None:
    lines = _random_lines(np.random.default_rng(seed))
    prefix_U = prefix_lengths(lines.length_U, 0.3, 4)
    index_B = sample_index(lines, prefix_U)
    table = sample_table(lines, index_B, LENGTH)
    users, index = lines.user_row_N.tolist(), index_B.tolist()
    for name, values_N in (("item_rows", lines.item_row_N), ("ratings", lines.rating_N)):
        expected = _naive_windows(values_N.tolist(), users, index)
        assert table[f"history_{name}"].to_pylist() == expected
    assert table["item_row"].to_pylist() == lines.item_row_N[index_B].tolist()


@pytest.mark.parametrize("seed", range(5))
def test_users_past_equals_a_plain_loop(seed: int) -> None:
    lines = _random_lines(np.random.default_rng(seed))
    prefix_U = prefix_lengths(lines.length_U, 0.3, 4)
    user_rows, table = past_table(lines, prefix_U, LENGTH)
    pairs = zip(lines.user_row_N.tolist(), lines.item_row_N.tolist(), strict=True)
    by_user = [[item for _, item in group] for _, group in groupby(pairs, lambda pair: pair[0])]
    shown = [min(int((len(items) + 1) * 0.3), 4) for items in by_user]
    assert user_rows.tolist() == sorted(set(lines.user_row_N.tolist()))
    assert table["history_end"].to_pylist() == [count - 1 for count in shown]
    assert table["prompt_item_rows"].to_pylist() == [
        items[:count] for items, count in zip(by_user, shown, strict=True)
    ]
    assert table["recent_item_rows"].to_pylist() == [
        [0] * (LENGTH - len(items[-LENGTH:])) + items[-LENGTH:] for items in by_user
    ]
    assert empty_past(3, LENGTH).schema == table.schema


def test_a_given_history_replaces_the_users_own(rng: np.random.Generator) -> None:
    count = 200
    item_N = np.arange(1, count + 1, dtype=np.int32)
    given_NL = np.zeros((count, LENGTH), np.int32)
    given_NL[:, -2:] = np.column_stack([2000 + item_N, 1000 + item_N])
    user_N = rng.integers(1, 15, count).astype(np.int32)
    lines = timelines(
        rank_N=user_N.astype(np.int64),
        order_N=rng.integers(0, 30, count),
        user_row_N=user_N,
        item_row_N=item_N,
        rating_N=np.ones(count, np.int8),
        label_N=rng.integers(0, 2, count).astype(np.int8),
        timestamp_N=np.arange(count),
        part_N=np.zeros(count, np.int8),
        history_NL=given_NL,
    )
    none_U = np.zeros_like(lines.length_U)
    table = sample_table(lines, sample_index(lines, none_U), LENGTH)
    assert table.num_rows == count
    for item, history in zip(*(table[n].to_pylist() for n in ITEM_AND_HISTORY), strict=True):
        assert history == [0, 0, 2000 + item, 1000 + item]
    assert set(table["history_ratings"].combine_chunks().flatten().to_pylist()) == {0}

    _, past = past_table(lines, none_U, LENGTH)
    assert past.schema == empty_past(3, LENGTH).schema
    assert set(past["history_end"].to_pylist()) == {-1}
    last = lines.start_U + lines.length_U - 1
    assert set(lines.label_N[last].tolist()) == {0, 1}
    for place, recent in zip(last, past["recent_item_rows"].to_pylist(), strict=True):
        item, liked = int(lines.item_row_N[place]), bool(lines.label_N[place])
        expected = [0, 0, 2000 + item, 1000 + item, *([item] if liked else [])]
        assert recent == expected[-LENGTH:]


ITEM_AND_HISTORY = ("item_row", "history_item_rows")


def test_equal_orders_keep_the_order_of_the_file() -> None:
    lines = timelines(
        rank_N=np.array([2, 1, 2, 1, 2]),
        order_N=np.array([7, 5, 7, 5, 3]),
        user_row_N=np.array([9, 4, 9, 4, 9], np.int32),
        item_row_N=np.array([1, 2, 3, 4, 5], np.int32),
        rating_N=np.ones(5, np.int8),
        label_N=np.ones(5, np.int8),
        timestamp_N=np.zeros(5, np.int64),
        part_N=np.zeros(5, np.int8),
    )
    assert lines.item_row_N.tolist() == [2, 4, 5, 1, 3]
    assert lines.position_N.tolist() == [0, 1, 0, 1, 2]
    assert lines.user_row_U.tolist() == [4, 9]


def test_prefix_rule() -> None:
    lengths = np.array([1, 2, 3, 20, 59, 60, 500])
    assert prefix_lengths(lengths, 0.5, 30).tolist() == [1, 1, 2, 10, 30, 30, 30]
    assert prefix_lengths(lengths, 0.0, 30).tolist() == [0] * 7
    assert prefix_lengths(lengths, 1.0, 1000).tolist() == lengths.tolist()


def test_no_interactions() -> None:
    nothing = np.empty(0, np.int64)
    assert windows(nothing, nothing, nothing, LENGTH).shape == (0, LENGTH)
