"""How sure a figure is: users drawn anew (bootstrap), and seeds compared in pairs (Student's t).

A bootstrap draws as many users as there are, with replacement, and takes all samples of a user as
often as it was drawn: samples of one user are not independent, users are. Every statistic of one
call sees the same draws, so differences of models on the same rows come in pairs.

Legend: N samples, U users, R draws.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr, stdtrit

from lorecast.evaluation.calibration import BINS, bin_places
from lorecast.evaluation.metrics import auc_by_group, row_log_loss
from lorecast.evaluation.ranking import ranking_by_group

RESAMPLES = 1000
_LEVEL = 0.95
_CELLS = 1 << 20
"""Weights drawn at once; bounds memory."""


class Statistic(Protocol):
    """A figure of fixed scores, whatever the users weigh."""

    def __call__(self, weight_RU: NDArray[np.float64]) -> NDArray[np.float64]:
        """The figure under each row of weights, [R]; all ones give the plain figure."""


class Interval(NamedTuple):
    """A figure and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


class Difference(NamedTuple):
    """A difference, the ends of its 95 % interval, and how often chance alone gives as much."""

    value: float
    low: float
    high: float
    p: float
    """Two-sided."""


class SeedTest(NamedTuple):
    """Paired differences over seeds: their mean ± half_width is the 95 % interval."""

    mean: float
    half_width: float
    p: float
    """Two-sided."""
    seeds: int


class Mean:
    """Σ_u w_u a_u / Σ_u w_u b_u: means over samples, over users, or weighted ones."""

    def __init__(self, total_U: NDArray[np.float64], count_U: NDArray[np.float64]) -> None:
        self._total_U, self._count_U = total_U, count_U

    def __call__(self, weight_RU: NDArray[np.float64]) -> NDArray[np.float64]:
        return _ratio(weight_RU @ self._total_U, weight_RU @ self._count_U)


class PooledAUC:
    """AUC of all samples together, sorted once."""

    def __init__(self, user_N: NDArray[np.intp], label_N: ArrayLike, score_N: ArrayLike) -> None:
        score, is_click = np.asarray(score_N), np.asarray(label_N) == 1
        order = np.argsort(score, kind="stable")
        click, other = order[is_click[order]], order[~is_click[order]]
        self._user_of_click, self._user_of_other = user_N[click], user_N[other]
        self._beaten = np.searchsorted(score[other], score[click], "left")
        self._beaten_or_tied = np.searchsorted(score[other], score[click], "right")

    def __call__(self, weight_RU: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.array([self._of(weight_U) for weight_U in weight_RU])

    def _of(self, weight_U: NDArray[np.float64]) -> float:
        below = np.concatenate([[0.0], np.cumsum(weight_U[self._user_of_other])])
        click = weight_U[self._user_of_click]
        wins = (click * (below[self._beaten] + below[self._beaten_or_tied])).sum() / 2
        return float(_ratio(wins, click.sum() * below[-1]))


class ECE:
    """Calibration error; the bins stay those of the samples as they are."""

    def __init__(
        self,
        user_N: NDArray[np.intp],
        label_N: ArrayLike,
        probability_N: ArrayLike,
        num_users: int,
        bins: int = BINS,
    ) -> None:
        p = np.asarray(probability_N, np.float64)
        cell = user_N * bins + bin_places(p, bins)
        gap = p - (np.asarray(label_N) == 1)
        self._gap_UK = np.bincount(cell, gap, num_users * bins).reshape(num_users, bins)
        self._count_U = np.bincount(user_N, minlength=num_users).astype(np.float64)

    def __call__(self, weight_RU: NDArray[np.float64]) -> NDArray[np.float64]:
        return _ratio(np.abs(weight_RU @ self._gap_UK).sum(1), weight_RU @ self._count_U)


def statistics(
    user_N: NDArray[np.intp], label_N: ArrayLike, probability_N: ArrayLike, names: Iterable[str]
) -> dict[str, Statistic]:
    """The named figures of one model: auc, gauc, uauc, log_loss, ece, ndcg, map, ndcg@k, map@k.

    `user_N` numbers the users from 0 without gaps.
    """
    wanted, users = dict.fromkeys(names), int(user_N.max()) + 1
    code = user_N.astype(np.uint64)
    found: dict[str, Statistic] = {}
    if "auc" in wanted:
        found["auc"] = PooledAUC(user_N, label_N, probability_N)
    if "ece" in wanted:
        found["ece"] = ECE(user_N, label_N, probability_N, users)
    if "log_loss" in wanted:
        found["log_loss"] = _mean(user_N, row_log_loss(label_N, probability_N), 1.0, users)
    if not wanted.keys().isdisjoint(("gauc", "uauc")):
        code_G, size_G, auc_G = auc_by_group(code, label_N, probability_N)
        found["gauc"] = _mean(code_G, auc_G, size_G, users)
        found["uauc"] = _mean(code_G, auc_G, 1.0, users)
    if ranking := [name for name in wanted if name.startswith(("ndcg", "map"))]:
        cutoffs = {int(name.split("@")[1]) for name in ranking if "@" in name}
        code_G, figures = ranking_by_group(code, label_N, probability_N, sorted(cutoffs))
        found |= {name: _mean(code_G, figures[name], 1.0, users) for name in ranking}
    return {name: found[name] for name in wanted}


def plain(statistic: Statistic, num_users: int) -> float:
    """The figure with every user once."""
    return float(statistic(np.ones((1, num_users)))[0])


def redraw(
    each: Sequence[Statistic], num_users: int, *, resamples: int = RESAMPLES, seed: int = 0
) -> NDArray[np.float64]:
    """Every statistic under the same draws of users, [len(each), R]."""
    blocks = [
        np.stack([statistic(weight_RU) for statistic in each])
        for weight_RU in _draws(num_users, resamples, seed)
    ]
    return np.concatenate(blocks, axis=1)


def interval(value: float, redrawn_R: NDArray[np.float64]) -> Interval:
    """A figure with the percentile interval of its redrawn values."""
    low, high = np.nanquantile(redrawn_R, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return Interval(value, float(low), float(high))


def difference(value: float, redrawn_R: NDArray[np.float64]) -> Difference:
    """The same for a difference; p is twice the share of draws on the far side of 0, at least
    2 / (R + 1)."""
    drawn = redrawn_R[~np.isnan(redrawn_R)]
    far = min(np.count_nonzero(drawn <= 0), np.count_nonzero(drawn >= 0))
    p = min(1.0, 2 * (far + 1) / (len(drawn) + 1))
    return Difference(*interval(value, drawn), p)


def paired_bootstrap(
    user: ArrayLike,
    label: ArrayLike,
    score_a: ArrayLike,
    score_b: ArrayLike,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """AUC of a minus AUC of b on the same samples."""
    users, user_N = np.unique(np.asarray(user), return_inverse=True)
    both = [PooledAUC(user_N, label, score) for score in (score_a, score_b)]
    value_a, value_b = (plain(each, len(users)) for each in both)
    redrawn = redraw(both, len(users), resamples=resamples, seed=seed)
    return difference(value_a - value_b, redrawn[0] - redrawn[1])


def seed_test(differences: ArrayLike) -> SeedTest | None:
    """Student's t on one difference a seed; None for fewer than two."""
    values = np.asarray(differences, np.float64)
    count = len(values)
    if count < 2:
        return None
    mean, error = float(values.mean()), float(values.std(ddof=1) / np.sqrt(count))
    half_width = float(stdtrit(count - 1, (1 + _LEVEL) / 2)) * error
    if error == 0:
        return SeedTest(mean, 0.0, float(mean == 0), count)
    return SeedTest(mean, half_width, 2 * float(stdtr(count - 1, -abs(mean) / error)), count)


def _draws(num_users: int, resamples: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """Blocks of weight_RU: how often each user was drawn."""
    random = np.random.default_rng(seed)
    most = max(1, _CELLS // num_users)
    for start in range(0, resamples, most):
        draws = min(most, resamples - start)
        drawn = random.integers(num_users, size=(draws, num_users))
        cell = drawn + num_users * np.arange(draws)[:, None]
        counts = np.bincount(cell.ravel(), minlength=draws * num_users)
        yield counts.reshape(draws, num_users).astype(np.float64)


def _mean(
    user_M: NDArray[np.integer], value_M: NDArray[np.float64], weight_M: ArrayLike, users: int
) -> Mean:
    """The weighted mean of values that belong to users, one or several each."""
    weight_M = np.broadcast_to(np.asarray(weight_M, np.float64), value_M.shape)
    total_U, count_U = (np.bincount(user_M, m, users) for m in (weight_M * value_M, weight_M))
    return Mean(total_U.astype(np.float64), count_U.astype(np.float64))


def _ratio(over: ArrayLike, under: ArrayLike) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio: NDArray[np.float64] = np.true_divide(over, under)
    return ratio
