"""What models take: rows of samples, and the fields that features become.

Shapes: B batch, L history, N an item's fields, M = N + 1 a history step's fields (with the rating),
X extra fields, E embedding width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor

from lorecast.data.batches import Samples


@dataclass(frozen=True)
class Batch:
    """Row numbers of samples; a model turns them into features. Any integer type; 0 is unknown."""

    user_row_B: Tensor
    item_row_B: Tensor
    history_item_BL: Tensor
    """Newest last; 0 pads."""
    history_rating_BL: Tensor
    """Rating levels from 1; 0 pads."""

    @classmethod
    def of(cls, samples: Samples) -> Self:
        """All samples as int32 tensors in memory."""
        rows = (
            samples.user_row_B,
            samples.item_row_B,
            samples.history_item_BL,
            samples.history_rating_BL,
        )
        return cls(*(torch.from_numpy(array.astype("int32")) for array in rows))

    def take(self, index: Tensor) -> Self:
        """The samples at `index`, in its order."""
        return self._each(lambda rows: rows.index_select(0, index))

    def slice(self, start: int, stop: int) -> Self:
        """The samples from `start` to before `stop`, as views."""
        return self._each(lambda rows: rows[start:stop])

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
        )


class Fields(NamedTuple):
    """What a backbone and an extractor see of a batch: embedded fields."""

    target_BNE: Tensor
    history_BLME: Tensor
    mask_BL: Tensor
    """False where the history is padded."""
    extra_BXE: Tensor
    """The user's features, then what an extractor adds."""

    def with_extra(self, extra_BXE: Tensor) -> "Fields":
        """These fields and further extra ones."""
        return self._replace(extra_BXE=torch.cat([self.extra_BXE, extra_BXE], dim=1))


class FieldCounts(NamedTuple):
    """How many fields there are of each kind, and their width."""

    target: int
    history: int
    extra: int
    dim: int
