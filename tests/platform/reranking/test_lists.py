"""Lists: what is in them, and that they know nothing they should not."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from lorecast.config import RerankingConfig
from lorecast.data.batches import Samples, load_samples
from lorecast.data.dataset import Dataset
from lorecast.data.layout import SPLITS
from lorecast.errors import TrainingError
from lorecast.reranking.lists import Lists, fill, load_lists, windows

CONFIG = RerankingConfig()


def _samples(user_row: list[int], position: list[int]) -> Samples:
    """Each sample's item is its position; those at even positions are clicks."""
    place_B = np.array(position, np.int32)
    return Samples(
        user_row_B=np.array(user_row, np.int32),
        item_row_B=place_B + 1,
        label_B=(1 - place_B % 2).astype(np.int8),
        timestamp_B=place_B.astype(np.int64),
        position_B=place_B,
        history_item_BL=place_B[:, None] + np.array([[-1, 0]], np.int32),
        history_rating_BL=np.ones((len(place_B), 2), np.int8),
    )


def _equal(a: Lists, b: Lists) -> bool:
    return all(
        np.array_equal(ours, theirs)
        for ours, theirs in (
            (a.item_row_WK, b.item_row_WK),
            (a.label_WK, b.label_WK),
            (a.first.user_row_B, b.first.user_row_B),
            (a.first.position_B, b.first.position_B),
        )
    )


def test_windows_are_whole_and_of_one_user() -> None:
    samples = _samples([2] * 9 + [1] * 4, [*range(3, 12), *range(5, 9)])
    window_WC = windows(samples, np.array([0, 5, 3]), 4)
    assert window_WC.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [9, 10, 11, 12]]


def test_a_window_that_lies_in_two_parts_is_dropped() -> None:
    start_U = np.array([0, 3])
    earlier, later = _samples([1] * 6, [*range(3, 9)]), _samples([1] * 6, [*range(9, 15)])
    assert windows(earlier, start_U, 4).tolist() == [[0, 1, 2, 3]]
    assert windows(later, start_U, 4).tolist() == [[2, 3, 4, 5]], "it starts where windows start"


def test_lists_hold_their_window_and_others(tiny_dataset: Dataset) -> None:
    start_U = tiny_dataset.history_end() + 1
    lists = load_lists(tiny_dataset, CONFIG)
    for split in SPLITS:
        samples, made = load_samples(tiny_dataset, split), lists[split]
        users, counts = np.unique(samples.user_row_B, return_counts=True)
        assert len(made) == (counts // 4).sum()
        assert np.isin(made.first.user_row_B, users).all()
        assert ((made.first.position_B - start_U[made.first.user_row_B]) % 4 == 0).all()
        where = {(u, p): i for i, (u, p) in enumerate(zip(*_key(samples), strict=True))}
        for w in range(len(made)):
            first = where[made.first.user_row_B[w], made.first.position_B[w]]
            window = slice(first, first + 4)
            own = set(zip(samples.item_row_B[window], samples.label_B[window], strict=True))
            listed = list(zip(made.item_row_WK[w], made.label_WK[w], strict=True))
            assert own <= set(listed)
            assert made.label_WK[w].sum() == samples.label_B[window].sum()
            others = [item for item, _ in listed if item not in {i for i, _ in own}]
            assert len(others) == len(set(others)) == 6
            np.testing.assert_array_equal(
                made.first.history_item_BL[w], samples.history_item_BL[first], "before the window"
            )


def _key(samples: Samples) -> tuple[list[int], list[int]]:
    return samples.user_row_B.tolist(), samples.position_B.tolist()


def test_the_first_ranker_counts_clicks_of_the_training_part_but_not_the_lists_own(
    tiny_dataset: Dataset,
) -> None:
    train = load_samples(tiny_dataset, "train")
    clicks_I = np.bincount(train.item_row_B, train.label_B, tiny_dataset.schema.num_items + 1)
    lists = load_lists(tiny_dataset, CONFIG)
    for split in SPLITS:
        known_WK = clicks_I[lists[split].item_row_WK]
        known_WK -= lists[split].label_WK * (split == "train")
        assert (np.diff(known_WK, axis=1) <= 0).all()


def test_equally_popular_items_come_in_any_order() -> None:
    samples = _samples([1] * 4000, [*range(4000)])
    samples = replace(samples, item_row_B=samples.item_row_B % 50 + 1)
    made = _filled(samples, 60, CONFIG)
    share_K = made.label_WK.mean(axis=0)
    assert share_K == pytest.approx(np.full(10, 0.2), abs=0.05)


def test_random_items_are_uniform_over_those_left() -> None:
    samples = _samples([1] * 40_000, [*range(40_000)])
    samples = replace(samples, item_row_B=samples.item_row_B % 4 + 1)
    item_WK = _filled(samples, 20, CONFIG).item_row_WK
    count_I = np.bincount(item_WK.ravel(), minlength=21)
    assert count_I[0] == 0
    assert (count_I[1:5] == 10_000).all(), "the window's items once"
    assert count_I[5:] == pytest.approx(np.full(16, 10_000 * 6 / 16), rel=0.07)


def test_a_small_catalogue_pads_lists_at_their_end() -> None:
    samples = _samples([1] * 8, [0, 1, 2, 3, 0, 1, 2, 2])
    samples = replace(samples, position_B=np.arange(8, dtype=np.int32))
    made = _filled(samples, 7, CONFIG)
    assert (made.item_row_WK > 0).sum(axis=1).tolist() == [7, 8], "the second holds one item twice"
    assert (np.diff((made.item_row_WK > 0).astype(int), axis=1) <= 0).all()
    assert sorted(made.item_row_WK[0, :7]) == list(range(1, 8))
    assert not made.label_WK[made.item_row_WK == 0].any()


def _filled(samples: Samples, num_items: int, config: RerankingConfig) -> Lists:
    window_WC = windows(samples, np.zeros(2, np.int64), config.clicked)
    rng = np.random.default_rng(0)
    return fill(samples, window_WC, np.zeros(num_items + 1, np.int64), config, rng, counted=False)


def test_a_seed_gives_the_same_lists(tiny_dataset: Dataset) -> None:
    first, again = (load_lists(tiny_dataset, CONFIG) for _ in range(2))
    other = load_lists(tiny_dataset, RerankingConfig(seed=1))
    for split in SPLITS:
        assert _equal(first[split], again[split])
        assert not _equal(first[split], other[split])
        np.testing.assert_array_equal(first[split].first.position_B, other[split].first.position_B)


@pytest.mark.bad_input
def test_a_part_without_whole_windows_is_refused(
    make_tiny_dataset: Callable[..., Dataset],
) -> None:
    with pytest.raises(TrainingError, match=r"train part.*lower reranking\.clicked"):
        load_lists(make_tiny_dataset(interactions_per_user=4), CONFIG)
