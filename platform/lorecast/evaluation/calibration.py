"""Do probabilities mean what they say? Reliability by bins of equal mass, and their ECE.

Samples in ascending order of probability (equal ones as they came) are cut into bins that hold the
same number of samples, give or take one. With bin b's n_b samples, mean probability p_b and share
of clicks y_b:

    ECE = Σ_b n_b / N · |p_b - y_b|        Naeini et al. 2015; equal mass: Nguyen and O'Connor 2015

It depends on the number of bins, and noise alone makes it positive: compare only equal sizes.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

BINS = 15


class Reliability(NamedTuple):
    """The bins that hold samples, by ascending probability."""

    predicted: NDArray[np.float64]
    """Mean probability."""
    observed: NDArray[np.float64]
    """Share of clicks."""
    rows: NDArray[np.int64]

    @property
    def ece(self) -> float:
        """Expected calibration error."""
        gap = np.abs(self.predicted - self.observed)
        return float(np.average(gap, weights=self.rows))


def reliability(label: ArrayLike, probability: ArrayLike, bins: int = BINS) -> Reliability:
    """The reliability curve; fewer samples than bins give a bin each."""
    p, y = np.asarray(probability, np.float64), np.asarray(label) == 1
    place = bin_places(p, bins)
    rows = np.bincount(place)
    return Reliability(np.bincount(place, p) / rows, np.bincount(place, y) / rows, rows)


def ece(label: ArrayLike, probability: ArrayLike, bins: int = BINS) -> float:
    """Expected calibration error."""
    return reliability(label, probability, bins).ece


def bin_places(probability: NDArray[np.floating], bins: int) -> NDArray[np.int64]:
    """The bin of each sample, from 0."""
    count = len(probability)
    bins = min(bins, count)
    place = np.empty(count, np.int64)
    place[np.argsort(probability, kind="stable")] = np.arange(count) * bins // count
    return place
