"""What models take: rows of samples, and the fields that features become.

Shapes: B batch, L history, N an item's fields, M = N + 1 a history step's fields (with the rating),
X extra fields, C context features, E embedding width, U items of a table, R ratings of one (0:
unknown).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from lorecast.data.batches import Samples


@dataclass(frozen=True)
class Batch:
    """Row numbers of samples; a model turns them into features. Any integer type; 0 is unknown."""

    user_row_B: Tensor
    item_row_B: Tensor
    history_item_BL: Tensor
    """Newest last; 0 pads. One row stands for all samples: those of one user's candidates."""
    history_rating_BL: Tensor
    """Rating levels from 1; 0 pads."""
    context_BC: Tensor | None = None
    """Codes of the moment's categories, in the order of the schema; none if it has none."""

    @classmethod
    def of(cls, samples: Samples) -> Self:
        """All samples as tensors that share their memory."""
        rows: list[NDArray[np.integer]] = [
            samples.user_row_B,
            samples.item_row_B,
            samples.history_item_BL,
            samples.history_rating_BL,
        ]
        if samples.context_BK.shape[1]:
            rows.append(samples.context_BK)
        return cls(*map(torch.from_numpy, rows))

    def take(self, index: Tensor) -> Self:
        """The samples at `index`, in its order."""
        return self._each(lambda rows: rows.index_select(0, index))

    def slice(self, start: int, stop: int) -> Self:
        """The samples from `start` to before `stop`, as views."""
        num = len(self)
        return self._each(lambda rows: rows[start:stop] if len(rows) == num else rows)

    def to(self, device: torch.device) -> Self:
        """The same batch on `device`."""
        return self._each(lambda rows: rows.to(device))

    def __len__(self) -> int:
        return len(self.item_row_B)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        return type(self)(
            change(self.user_row_B),
            change(self.item_row_B),
            change(self.history_item_BL),
            change(self.history_rating_BL),
            None if self.context_BC is None else change(self.context_BC),
        )


@dataclass(frozen=True)
class History:
    """A batch's histories: each step the fields of an item and of a rating, in a row. Of one user's
    candidates a single history, B = 1, which stands for all.

    They are kept as places in two small tables, so that whatever is linear in a step is worked out
    once a row of the tables instead of once a step. J = M·E is a step's width, K = N·E an item's.
    """

    item_UK: Tensor
    """Fields of items; a padded step's place holds zeros."""
    place_BL: Tensor
    """int64, in U."""
    rating_RE: Tensor
    """Row 0 is zero."""
    level_BL: Tensor
    """int64, in R."""
    mask_BL: Tensor
    """False where the history is padded."""
    shift_BJ: Tensor | None = None
    """What is added to every real step of a sample."""

    def steps(self) -> Tensor:
        """step_BLJ; zeros where the history is padded."""
        step_BLJ = torch.cat(
            [_rows(self.item_UK, self.place_BL), _rows(self.rating_RE, self.level_BL)], dim=2
        )
        if self.shift_BJ is None:
            return step_BLJ
        return step_BLJ + self.shift_BJ[:, None] * self.mask_BL[:, :, None]

    def mapped(self, weight_WJ: Tensor, bias_W: Tensor) -> Tensor:
        """step_BLW, the linear map of `steps`; a padded step gives the bias."""
        K = self.item_UK.shape[1]
        rating_RW = F.linear(self.rating_RE, weight_WJ[:, K:])
        if self.place_BL.shape[0] == 1:
            item_BLW = F.linear(_rows(self.item_UK, self.place_BL), weight_WJ[:, :K], bias_W)
        else:
            item_BLW = _rows(F.linear(self.item_UK, weight_WJ[:, :K], bias_W), self.place_BL)
        step_BLW = item_BLW + _rows(rating_RW, self.level_BL)
        if self.shift_BJ is None:
            return step_BLW
        shift_BW = F.linear(self.shift_BJ, weight_WJ)
        return step_BLW + shift_BW[:, None] * self.mask_BL[:, :, None]

    def mean(self) -> Tensor:
        """mean_BJ over the real steps; zeros for an empty history."""
        share_BL = self.mask_BL / self.mask_BL.sum(1, keepdim=True).clamp(min=1)
        share_B1L = share_BL[:, None]
        item_BK = torch.bmm(share_B1L, _rows(self.item_UK, self.place_BL)).squeeze(1)
        share_BR = share_BL.new_zeros(share_BL.shape[0], self.rating_RE.shape[0])
        share_BR = share_BR.scatter_add(1, self.level_BL, share_BL)
        mean_BJ = torch.cat([item_BK, share_BR @ self.rating_RE], dim=1)
        if self.shift_BJ is None:
            return mean_BJ
        return mean_BJ + self.shift_BJ * self.mask_BL.any(1, keepdim=True)

    def of_each(self, num_samples: int) -> "History":
        """The same with a row a sample, where one history stands for all."""
        return replace(
            self,
            place_BL=self.place_BL.expand(num_samples, -1),
            level_BL=self.level_BL.expand(num_samples, -1),
            mask_BL=self.mask_BL.expand(num_samples, -1),
        )

    def shifted(self, shift_BJ: Tensor) -> "History":
        """The same histories, every real step moved by its sample's shift."""
        assert self.shift_BJ is None, "a history is shifted once"
        return replace(self, shift_BJ=shift_BJ)


def _rows(table_UW: Tensor, place_BL: Tensor) -> Tensor:
    """row_BLW. With int64 places and two dimensions both passes of index_select are fast."""
    W = table_UW.shape[1]
    return table_UW.index_select(0, place_BL.flatten()).view(*place_BL.shape, W)


@dataclass(frozen=True)
class Fields:
    """What a backbone and an extractor see of a batch: embedded fields."""

    target_BNE: Tensor
    history: History
    extra_BXE: Tensor
    """The user's features and the context's, then what an extractor adds."""
    user_row_B: Tensor | None = None
    """For a backbone that knows users by themselves."""
    beside_BH: Tensor | None = None
    """What joins the first layer of a backbone's MLP, as wide as that is (`layers.Layers`)."""

    def with_extra(self, extra_BXE: Tensor) -> "Fields":
        """These fields and further extra ones."""
        return replace(self, extra_BXE=torch.cat([self.extra_BXE, extra_BXE], dim=1))


class FieldCounts(NamedTuple):
    """How many fields there are of each kind, and their width; how many users."""

    target: int
    history: int
    extra: int
    dim: int
    num_users: int = 0
