"""Features of users and items by row, as a dataset or a bundle stores them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lorecast.config import Side


@dataclass(frozen=True)
class SideFeatures:
    """One side's features in the order of the schema; row 0 is unknown and zero."""

    codes: NDArray[np.int32]
    """[rows + 1, A], 0 is unknown."""
    multi: Mapping[str, NDArray[np.int32]]
    """Name → [rows + 1, W], the codes of up to W values; 0 elsewhere."""
    numbers: NDArray[np.float32]
    """[rows + 1, K], 0 where missing."""


class Source(Protocol):
    """A dataset or a bundle."""

    def feature_codes(self, side: Side) -> NDArray[np.int32]:
        """[rows + 1, A]."""

    def multi_codes(self, side: Side) -> Mapping[str, NDArray[np.int32]]:
        """Name → [rows + 1, W]."""

    def numeric(self, side: Side) -> NDArray[np.float32]:
        """[rows + 1, K]."""


def feature_tables(source: Source) -> tuple[SideFeatures, SideFeatures]:
    """(items, users): what a model attaches."""
    items, users = (
        SideFeatures(source.feature_codes(side), source.multi_codes(side), source.numeric(side))
        for side in _SIDES
    )
    return items, users


_SIDES: tuple[Side, Side] = ("item", "user")
