"""How well scores rank and fit clicks. Ties count half; groups cost one sort, no loop.

All take one entry a sample: label 0 or 1, score any number, or a probability where said so.

    AUC      P(score of a click > score of a non-click) + ½ P(equal)
    GAUC     Σ_u n_u · AUC_u / Σ_u n_u     over users u with both classes, n_u samples each
    UAUC     the plain mean of AUC_u over the same users
    LogLoss  -mean(y ln p + (1 - y) ln(1 - p)), in nats
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lorecast.evaluation.grouping import group_codes, opens, score_codes

SMALLEST_PROBABILITY = 1e-7
"""Keeps one wrong and certain float32 score from making LogLoss infinite."""


class GroupAUC(NamedTuple):
    """AUC inside each group that has both classes, by ascending code."""

    code_G: NDArray[np.int64]
    size_G: NDArray[np.int64]
    auc_G: NDArray[np.float64]


def auc(label: ArrayLike, score: ArrayLike) -> float:
    """AUC of all samples together. NaN if a class is absent."""
    return gauc(np.zeros(len(np.asarray(label)), np.int8), label, score)


def gauc(user: ArrayLike, label: ArrayLike, score: ArrayLike) -> float:
    """GAUC. NaN if no user has both classes."""
    _, size_G, auc_G = auc_by_group(group_codes(user), label, score)
    return float(np.average(auc_G, weights=size_G)) if len(auc_G) else float("nan")


def uauc(user: ArrayLike, label: ArrayLike, score: ArrayLike) -> float:
    """UAUC. NaN if no user has both classes."""
    auc_G = auc_by_group(group_codes(user), label, score).auc_G
    return float(np.mean(auc_G)) if len(auc_G) else float("nan")


def log_loss(label: ArrayLike, probability: ArrayLike) -> float:
    """LogLoss of probabilities, which are kept 1e-7 away from 0 and 1."""
    return float(np.mean(row_log_loss(label, probability)))


def row_log_loss(label: ArrayLike, probability: ArrayLike) -> NDArray[np.float64]:
    """Each sample's part of the LogLoss, [N]."""
    low, high = SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY
    p = np.clip(np.asarray(probability, np.float64), low, high)
    loss: NDArray[np.float64] = -np.log(np.where(np.asarray(label) == 1, p, 1 - p))
    return loss


def auc_by_group(code: NDArray[np.uint64], label: ArrayLike, score: ArrayLike) -> GroupAUC:
    """AUC inside groups with codes as `group_codes` gives them."""
    positive = (np.asarray(label) == 1).astype(np.uint64)
    # Group, score and label, from high bits to low, are all there is to know about a sample.
    key = np.sort(code << 33 | score_codes(score).astype(np.uint64) << 1 | positive)
    label_N = (key & 1).astype(np.float64)
    group_start, tie_start = (np.flatnonzero(opens(key >> bits)) for bits in (33, 1))
    size_G = np.diff(group_start, append=len(key))
    tie_size = np.diff(tie_start, append=len(key))
    positives_T = np.add.reduceat(label_N, tie_start)
    # Ranks count from 1 over all groups; a tie's samples share their mean rank.
    rank_sum_T = positives_T * (tie_start + (tie_size + 1) / 2)
    first_tie = np.searchsorted(tie_start, group_start)
    positives_G = np.add.reduceat(positives_T, first_tie)
    rank_sum_G = np.add.reduceat(rank_sum_T, first_tie) - positives_G * group_start
    pairs_G = positives_G * (size_G - positives_G)
    mixed = pairs_G > 0
    wins = (rank_sum_G - positives_G * (positives_G + 1) / 2)[mixed]
    code_G = (key[group_start] >> 33).astype(np.int64)
    return GroupAUC(code_G[mixed], size_G[mixed], wins / pairs_G[mixed])
