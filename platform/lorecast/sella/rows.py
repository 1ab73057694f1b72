"""Prompt rows: what a sample of any prepared dataset says to a language model.

Legend: B rows, L history of the dataset, M titles shown, R item rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from lorecast.config import SellaConfig
from lorecast.data.batches import Samples, load_samples
from lorecast.data.dataset import Dataset
from lorecast.data.histories import last_places
from lorecast.data.layout import Split


@dataclass(frozen=True, kw_only=True)
class PromptRows:
    """Samples by row numbers; row 0 stands for the unknown."""

    user_row_B: NDArray[np.int32]
    item_row_B: NDArray[np.int32]
    liked_BM: NDArray[np.int32]
    """Items liked before, newest last, 0 on the left where there are fewer."""
    label_B: NDArray[np.float32]

    @classmethod
    def of(cls, samples: Samples, liked_BM: NDArray[np.int32]) -> Self:
        """The samples with what was liked before each."""
        return cls(
            user_row_B=samples.user_row_B,
            item_row_B=samples.item_row_B,
            liked_BM=liked_BM,
            label_B=samples.label_B.astype(np.float32),
        )

    @classmethod
    def load(
        cls, dataset: Dataset, split: Split, config: SellaConfig, positive_rating: float
    ) -> Self:
        """All rows of a split."""
        samples = load_samples(dataset, split)
        liked_B = liked(samples, dataset, positive_rating)
        shown = config.prompt.history_titles
        return cls.of(samples, newest(samples.history_item_BL, liked_B, shown))

    def __len__(self) -> int:
        return len(self.label_B)

    def take(self, index: NDArray[np.integer] | slice) -> Self:
        """The rows at these places, in this order."""
        return type(self)(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def with_history(self) -> Self:
        """Those before which something was liked: what the published code trains on."""
        return self.take(np.flatnonzero(self.liked_BM.any(1)))

    def draw(self, most: int | None, seed: int, *, whole: Literal["user", "prefix"]) -> Self:
        """About so many rows at most, in their order: those of users, or of prefixes (a user's
        liked items), that are drawn whole without replacement."""
        if most is None or most >= len(self):
            return self
        group_B = self.prefixes() if whole == "prefix" else self.user_row_B
        groups, group_B, size_G = np.unique(group_B, return_inverse=True, return_counts=True)
        order = np.random.default_rng(seed).permutation(len(groups))
        drawn = order[np.cumsum(size_G[order]) <= most]
        return self.take(np.flatnonzero(np.isin(group_B, drawn)))

    def prefixes(self) -> NDArray[np.int64]:
        """A number for each user's list of liked items, equal where both are: [B]."""
        key_BV = np.column_stack([self.user_row_B, self.liked_BM])
        _, group_B = np.unique(key_BV, axis=0, return_inverse=True)
        return group_B.reshape(-1)


def liked(samples: Samples, dataset: Dataset, positive_rating: float) -> NDArray[np.bool_]:
    """Which entries of the histories were liked: [B, L]. Where a column gives histories, all are;
    where interactions have labels alone, those with label 1."""
    if not dataset.rates_histories:
        return samples.history_item_BL > 0
    liked_K = liked_levels(dataset.rating_levels, positive_rating)
    liked_BL: NDArray[np.bool_] = liked_K[samples.history_rating_BL]
    return liked_BL


def liked_from(rating_levels: Sequence[float], positive_rating: float) -> float:
    """The lowest rating that means liked; 1 where there are labels alone."""
    return positive_rating if max(rating_levels, default=0) > 1 else 1.0


def liked_levels(rating_levels: Sequence[float], positive_rating: float) -> NDArray[np.bool_]:
    """Which codes of ratings mean liked; code 0 is none."""
    bound = liked_from(rating_levels, positive_rating)
    return np.asarray([False, *(level >= bound for level in rating_levels)])


def newest(item_BL: NDArray[np.int32], kept_BL: NDArray[np.bool_], most: int) -> NDArray[np.int32]:
    """The last `most` kept items of each row, on the right: [B, most]."""
    owner_V, place_V = np.nonzero(kept_BL)
    column_V, is_last_V = last_places(owner_V, len(item_BL), most)
    newest_BM = np.zeros((len(item_BL), most), np.int32)
    newest_BM[owner_V[is_last_V], column_V[is_last_V]] = item_BL[owner_V, place_V][is_last_V]
    return newest_BM


def trained_rows(rows_B: NDArray[np.integer], num_rows: int) -> NDArray[np.bool_]:
    """Which entities have training samples, row 0 apart: [num_rows + 1]."""
    seen = np.zeros(num_rows + 1, bool)
    seen[rows_B] = True
    seen[0] = False
    return seen
