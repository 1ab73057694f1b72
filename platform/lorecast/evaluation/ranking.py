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

from lorecast.evaluation.grouping import group_codes, opens, score_codes


def ranking_metrics(
    group: ArrayLike, label: ArrayLike, score: ArrayLike, cutoffs: Sequence[int]
) -> dict[str, float]:
    """ndcg@k and map@k for every cut-off, ndcg and map; means over groups with a positive.

    One entry a row: any group id, label 0 or 1, any finite score. NaN if nothing is positive.
    """
    code_G, values_G = ranking_by_group(group_codes(group), label, score, cutoffs)
    if not len(code_G):
        return dict.fromkeys(values_G, float("nan"))
    return {name: float(np.mean(values)) for name, values in values_G.items()}


def ranking_by_group(
    code: NDArray[np.uint64], label: ArrayLike, score: ArrayLike, cutoffs: Sequence[int]
) -> tuple[NDArray[np.int64], dict[str, NDArray[np.float64]]]:
    """(code_G, figures_G by name) of the groups with a positive; codes as of `group_codes`."""
    order = np.argsort(code << 32 | ~score_codes(score), kind="stable")
    groups = code[order].astype(np.int64)
    group_start = np.flatnonzero(opens(groups))
    group_size = np.diff(group_start, append=len(groups))
    hit = np.flatnonzero(np.asarray(label)[order] == 1)
    place = hit - np.repeat(group_start, group_size)[hit] + 1
    first_hit = np.flatnonzero(opens(groups[hit]))
    hits_G = np.diff(first_hit, append=len(hit))
    nth_hit = np.arange(len(hit)) - np.repeat(first_hit, hits_G) + 1
    longest = int(group_size.max(initial=1))
    gain = 1 / np.log2(np.arange(2, longest + 2))
    ideal = np.concatenate([[0.0], np.cumsum(gain)])
    figures = {}
    for end, cutoff in (("", longest), *((f"@{k}", k) for k in cutoffs)):
        is_in, best_G = place <= cutoff, np.minimum(hits_G, cutoff)
        gained_G, precision_G = (
            np.add.reduceat(np.where(is_in, values, 0.0), first_hit)
            for values in (gain[place - 1], nth_hit / place)
        )
        figures[f"ndcg{end}"] = gained_G / ideal[best_G]
        figures[f"map{end}"] = precision_G / best_G
    return groups[hit[first_hit]], figures
