"""How well scores order the rows of a group, a user's candidates for instance: NDCG and MAP.

A group's rows are laid out by descending score, equal scores in the order they came. With
y_i = 1 if the row at place i (from 1) is a positive, P positives in the group, and cut-off k:

    NDCG@k = Σ_{i≤k} y_i / log2(i + 1)  /  Σ_{i≤min(k,P)} 1 / log2(i + 1)
    MAP@k  = Σ_{i≤k} y_i · (positives among the first i) / i  /  min(k, P)

Järvelin and Kekäläinen 2002, binary gains. Without @k the whole list counts.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def ranking_metrics(
    group: ArrayLike, label: ArrayLike, score: ArrayLike, cutoffs: Sequence[int]
) -> dict[str, float]:
    """ndcg@k and map@k for every cut-off, ndcg and map; means over groups with a positive.

    One entry a row: any group id, label 0 or 1, any finite score. NaN if nothing is positive.
    """
    groups, positives = np.asarray(group), np.asarray(label) == 1
    order = np.lexsort((-np.asarray(score), groups))
    groups, positives = groups[order], positives[order]
    hit = np.flatnonzero(positives)
    ends = ["", *(f"@{k}" for k in cutoffs)]
    if not len(hit):
        return {f"{name}{end}": float("nan") for end in ends for name in ("ndcg", "map")}
    group_start = np.flatnonzero(_opens(groups))
    group_size = np.diff(group_start, append=len(groups))
    place = hit - np.repeat(group_start, group_size)[hit] + 1
    first_hit = np.flatnonzero(_opens(groups[hit]))
    hits = np.diff(first_hit, append=len(hit))
    nth_hit = np.arange(len(hit)) - np.repeat(first_hit, hits) + 1
    longest = int(group_size.max())
    gain = 1 / np.log2(np.arange(2, longest + 2))
    ideal = np.concatenate([[0.0], np.cumsum(gain)])
    figures = {}
    for end, cutoff in zip(ends, [longest, *cutoffs], strict=True):
        seen, best = place <= cutoff, np.minimum(hits, cutoff)
        gained = np.add.reduceat(np.where(seen, gain[place - 1], 0.0), first_hit)
        precision = np.add.reduceat(np.where(seen, nth_hit / place, 0.0), first_hit)
        figures[f"ndcg{end}"] = float(np.mean(gained / ideal[best]))
        figures[f"map{end}"] = float(np.mean(precision / best))
    return figures


def _opens(values: NDArray[np.generic]) -> NDArray[np.bool_]:
    """True where a value differs from the one before it, and at the first."""
    opens = np.ones(len(values), np.bool_)
    opens[1:] = values[1:] != values[:-1]
    return opens
