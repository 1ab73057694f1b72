"""Groups and scores as integers of one sortable key: sorting ten million rows takes a second.

Legend: N rows, G groups.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

_MOST_GROUPS = 1 << 31


def group_codes(group: ArrayLike) -> NDArray[np.uint64]:
    """Integers below 2³¹, the same for the same id, [N]. Ids that are such integers stay."""
    groups = np.asarray(group)
    if groups.dtype.kind in "iub" and len(groups):
        low, high = int(groups.min()), int(groups.max())
        if low >= 0 and high < _MOST_GROUPS:
            return groups.astype(np.uint64)
    return np.unique(groups, return_inverse=True)[1].astype(np.uint64)


def score_codes(score: ArrayLike) -> NDArray[np.uint32]:
    """Integers in the order of the scores, equal where they are equal, [N].

    float32's bits are such integers once the negative ones are flipped; others are numbered.
    """
    scores = np.asarray(score)
    if scores.dtype != np.float32:
        return np.unique(scores, return_inverse=True)[1].astype(np.uint32)
    bits: NDArray[np.uint32] = (scores + np.float32(0)).view(np.uint32)  # -0 becomes 0
    bits ^= np.where(bits >> 31 == 1, np.uint32(0xFFFFFFFF), np.uint32(0x80000000))
    return bits


def opens(values: NDArray[np.generic]) -> NDArray[np.bool_]:
    """True where a value differs from the one before it, and at the first."""
    opening = np.ones(len(values), np.bool_)
    opening[1:] = values[1:] != values[:-1]
    return opening
