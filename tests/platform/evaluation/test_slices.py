"""Slices of the tiny dataset, against counts made the slow way."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lorecast.data.batches import Samples, load_samples
from lorecast.data.dataset import Dataset
from lorecast.evaluation.slices import Slice, slices, training_counts


@pytest.fixture
def dataset(make_tiny_dataset: Callable[..., Dataset], tmp_path: Path) -> Dataset:
    return make_tiny_dataset(num_users=40, num_items=60)


def _by_name(found: tuple[Slice, ...]) -> dict[tuple[str, str], np.ndarray]:
    names = [(each.family, each.name) for each in found]
    assert len(set(names)) == len(names)
    return {(each.family, each.name): each.mask_B for each in found}


def _whole(samples: Samples, **changed: np.ndarray) -> Samples:
    return Samples(**(vars(samples) | changed))


def test_counts_are_of_the_training_part(dataset: Dataset) -> None:
    train, counts = load_samples(dataset, "train"), training_counts(dataset)
    for side, row_B, last in (
        ("user", train.user_row_B, dataset.schema.num_users),
        ("item", train.item_row_B, dataset.schema.num_items),
    ):
        expected = Counter(row_B.tolist())
        assert counts[side].tolist() == [expected[row] for row in range(last + 1)]


def test_users_of_a_split_by_user_are_cold_and_rows_fall_into_one_bucket_each(
    dataset: Dataset,
) -> None:
    test, counts = load_samples(dataset, "test"), training_counts(dataset)
    found = _by_name(slices(test, counts, {}))
    assert found["users", "cold (not in training)"].all()
    assert not found["users", "warm"].any()
    for who, side, row_B in (
        ("users", "user", test.user_row_B),
        ("items", "item", test.item_row_B),
    ):
        count_B = np.array([counts[side][row] for row in row_B])
        for name, low, high in (
            ("cold (not in training)", 0, 0),
            ("1–5 training samples", 1, 5),
            ("6–20 training samples", 6, 20),
            ("over 20 training samples", 21, 10**9),
        ):
            expected = (low <= count_B) & (count_B <= high)
            np.testing.assert_array_equal(found[who, name], expected)
        np.testing.assert_array_equal(found[who, "warm"], count_B > 0)


def test_a_pair_is_warm_where_user_and_item_are_in_training(dataset: Dataset) -> None:
    test, train = load_samples(dataset, "test"), load_samples(dataset, "train")
    user_row_B = np.where(np.arange(len(test)) % 2, train.user_row_B[0], test.user_row_B)
    mixed = _whole(test, user_row_B=user_row_B.astype(np.int32))
    users, items = set(train.user_row_B.tolist()), set(train.item_row_B.tolist())
    items.discard(int(test.item_row_B[1]))
    counts = training_counts(dataset)
    counts["item"][test.item_row_B[1]] = 0
    found = _by_name(slices(mixed, counts, {}))
    warm_B = [u in users and i in items for u, i in zip(user_row_B, test.item_row_B, strict=True)]
    assert 0 < sum(warm_B) < len(test) // 2, "one side alone does not tell"
    np.testing.assert_array_equal(found["pairs", "warm"], warm_B)
    cold_B = found["pairs", "cold (user or item not in training)"]
    np.testing.assert_array_equal(cold_B, ~np.asarray(warm_B))


def test_quarters_part_the_items_and_keep_equal_ones_together(dataset: Dataset) -> None:
    test = load_samples(dataset, "test")
    count_R = np.arange(61)
    count_R[1:5] = 4
    counts = {"user": np.zeros(41, np.int64), "item": count_R}
    items = _whole(test, item_row_B=np.resize(np.arange(1, 61), len(test)).astype(np.int32))
    found = _by_name(slices(items, counts, {}))
    parts = [
        np.unique(items.item_row_B[mask_B])
        for (family, _), mask_B in found.items()
        if family == "item popularity"
    ]
    assert [part.tolist() for part in parts] == [
        list(range(1 + 15 * n, 16 + 15 * n)) for n in range(4)
    ]


def test_knowledge_is_present_where_a_row_has_a_text(dataset: Dataset) -> None:
    test = load_samples(dataset, "test")
    has_text_R = np.arange(61) % 3 == 0
    found = _by_name(slices(test, training_counts(dataset), {"item texts": ("item", has_text_R)}))
    np.testing.assert_array_equal(found["item texts", "some"], test.item_row_B % 3 == 0)
    np.testing.assert_array_equal(found["item texts", "none"], test.item_row_B % 3 != 0)


def test_history_is_empty_shorter_or_full(dataset: Dataset) -> None:
    test = load_samples(dataset, "test")
    history_BL = np.tile([3, 1, 4, 1, 5], (len(test), 1)).astype(np.int32)
    history_BL[0], history_BL[1, :2] = 0, 0
    found = _by_name(slices(_whole(test, history_item_BL=history_BL), training_counts(dataset), {}))
    assert np.flatnonzero(found["history", "empty"]).tolist() == [0]
    assert np.flatnonzero(found["history", "shorter than 5"]).tolist() == [1]
    assert found["history", "full (5)"].sum() == len(test) - 2
