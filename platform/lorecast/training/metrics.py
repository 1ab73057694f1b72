"""How well scores rank and fit clicks. Ties count half; groups cost one sort, no loop.

All take one entry a sample: label 0 or 1, score any real number unless said otherwise.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

_SMALLEST_PROBABILITY = 1e-7
"""Keeps one wrong and certain float32 score from making LogLoss infinite."""


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """The figures of one split."""

    auc: float
    log_loss: float
    gauc: float

    @classmethod
    def of(cls, user: ArrayLike, label: ArrayLike, probability: ArrayLike) -> "Metrics":
        """All figures of scores that are probabilities."""
        return cls(
            auc=auc(label, probability),
            log_loss=log_loss(label, probability),
            gauc=gauc(user, label, probability),
        )


def auc(label: ArrayLike, score: ArrayLike) -> float:
    """Probability that a click outscores a non-click. NaN if one of them is absent."""
    return gauc(np.zeros(len(np.asarray(label)), np.int8), label, score)


def log_loss(label: ArrayLike, probability: ArrayLike) -> float:
    """Mean negative log likelihood, in nats."""
    low, high = _SMALLEST_PROBABILITY, 1 - _SMALLEST_PROBABILITY
    p = np.clip(np.asarray(probability, np.float64), low, high)
    return float(-np.mean(np.log(np.where(np.asarray(label) == 1, p, 1 - p))))


def gauc(user: ArrayLike, label: ArrayLike, score: ArrayLike) -> float:
    """AUC inside each user, averaged by the user's samples; users of one class are left out.

    NaN if no user has both classes.
    """
    users, scores = np.asarray(user), np.asarray(score)
    order = np.lexsort((scores, users))
    users, scores = users[order], scores[order]
    labels = np.asarray(label, np.float64)[order]
    opens_user = _changes(users)
    opens_tie = opens_user | _changes(scores)
    user_start, tie_start = np.flatnonzero(opens_user), np.flatnonzero(opens_tie)
    user_size = np.diff(user_start, append=len(users))
    tie_size = np.diff(tie_start, append=len(users))
    rank = np.repeat(tie_start + (tie_size + 1) / 2, tie_size) - np.repeat(user_start, user_size)
    positives = np.add.reduceat(labels, user_start)
    rank_sum = np.add.reduceat(labels * rank, user_start)
    pairs = positives * (user_size - positives)
    mixed = pairs > 0
    if not mixed.any():
        return float("nan")
    wins = (rank_sum - positives * (positives + 1) / 2)[mixed]
    return float(np.average(wins / pairs[mixed], weights=user_size[mixed]))


def paired_bootstrap(
    user: ArrayLike,
    label: ArrayLike,
    score_a: ArrayLike,
    score_b: ArrayLike,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """(AUC of a − AUC of b, and the ends of its 95 % interval when users are drawn anew)."""
    users, of_user = np.unique(np.asarray(user), return_inverse=True)
    labels = np.asarray(label) == 1
    first, second = (_WeightedAUC(of_user, labels, np.asarray(s)) for s in (score_a, score_b))
    random = np.random.default_rng(seed)
    share = np.full(len(users), 1 / len(users))
    differences = np.empty(resamples)
    for i in range(resamples):
        drawn = random.multinomial(len(users), share).astype(np.float64)
        differences[i] = first(drawn) - second(drawn)
    once = np.ones(len(users))
    low, high = np.nanquantile(differences, [0.025, 0.975])
    return first(once) - second(once), float(low), float(high)


class _WeightedAUC:
    """AUC of fixed scores under any weights of the users: sorted once."""

    def __init__(
        self, user: NDArray[np.intp], label: NDArray[np.bool_], score: NDArray[np.floating]
    ) -> None:
        order = np.argsort(score, kind="stable")
        positive, negative = order[label[order]], order[~label[order]]
        self._user_of_positive = user[positive]
        self._user_of_negative = user[negative]
        self._beaten = np.searchsorted(score[negative], score[positive], "left")
        self._beaten_or_tied = np.searchsorted(score[negative], score[positive], "right")

    def __call__(self, weight: NDArray[np.float64]) -> float:
        below = np.concatenate([[0.0], np.cumsum(weight[self._user_of_negative])])
        positive = weight[self._user_of_positive]
        wins = (positive * (below[self._beaten] + below[self._beaten_or_tied])).sum() / 2
        pairs = positive.sum() * below[-1]
        return float(wins / pairs) if pairs else float("nan")


def _changes(values: NDArray[np.generic]) -> NDArray[np.bool_]:
    """True where a value differs from the one before it, and at the first."""
    changes = np.ones(len(values), np.bool_)
    changes[1:] = values[1:] != values[:-1]
    return changes
