"""Which part a sample belongs to: an index of `layout.SPLITS`."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lorecast.config import SplitConfig
from lorecast.data.layout import SPLITS, Split
from lorecast.errors import InputError

_BINS = 1 << 18
TRAIN, VALID, TEST = range(len(SPLITS))


def parts_of_users(num_users: int, split: SplitConfig) -> NDArray[np.int8]:
    """Part of each user row, [users + 1]: a shuffle of the users is cut at the shares."""
    first_valid = round(num_users * (1 - split.valid - split.test))
    first_test = round(num_users * (1 - split.test))
    order = np.random.default_rng(split.seed).permutation(num_users)
    parts = np.zeros(num_users + 1, np.int8)
    parts[1 + order[first_valid:first_test]] = VALID
    parts[1 + order[first_test:]] = TEST
    return parts


@dataclass(frozen=True)
class TimeSpan:
    """The times of all interactions, in seconds, cut to equal bins for counting.

    Counts of bins add up over tasks, so a cut needs no sorting of all times at once. A cut falls on
    the edge of a bin: 1/262,144 of the span, 4 minutes in two years.
    """

    first: int
    last: int

    def counts(self, timestamp_B: NDArray[np.int64]) -> NDArray[np.int64]:
        """Number of samples in each bin."""
        return np.bincount((timestamp_B - self.first) // self._width, minlength=self._num_bins)

    def cuts(self, counts: NDArray[np.int64], split: SplitConfig) -> tuple[int, int]:
        """The times from which samples are validation, and test."""
        before = np.concatenate(([0], counts.cumsum()))
        shares = np.array([1 - split.valid - split.test, 1 - split.test])
        edges = np.abs(before[:, None] - shares * before[-1]).argmin(axis=0)
        valid_from, test_from = self.first + edges * self._width
        return int(valid_from), int(test_from)

    @property
    def _width(self) -> int:
        return (self.last - self.first) // _BINS + 1

    @property
    def _num_bins(self) -> int:
        return (self.last - self.first) // self._width + 1


def parts_by_time(timestamp_B: NDArray[np.int64], cuts: tuple[int, int]) -> NDArray[np.int8]:
    """Train before the first cut, test from the second on."""
    return np.searchsorted(np.array(cuts), timestamp_B, side="right").astype(np.int8)


def require_every_part(rows: dict[Split, int], split: SplitConfig) -> None:
    """Raises InputError naming the first part without samples and what to change."""
    empty = next((name for name in SPLITS if not rows[name]), None)
    if empty is None:
        return
    fix = {
        "user": "raise its share in dataset.split, or bring more users with more interactions",
        "time": "raise its share in dataset.split; equal timestamps cannot be parted",
        "column": f"mark rows with {empty!r} in column {split.column!r}",
    }[split.by]
    raise InputError(
        f"the split {empty!r} has no samples ({_counts(rows)}; a user's first interactions, "
        f"dataset.prefix_share, make no samples): {fix}"
    )


def _counts(rows: dict[Split, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in rows.items())
