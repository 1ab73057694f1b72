"""Features to embeddings: items and their categories, ratings of the history, users' categories.

One table holds all; a feature owns a range of its rows, and row 0 stands for whatever is unknown,
always zero. Target and history share the items' rows.

Shapes: B batch, L history, N = 1 + A an item's fields (id, categories), M = N + 1 a history
step's, X a user's categories, E embedding width.
"""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lorecast.data.dataset import FeatureSchema
from lorecast.models.inputs import Batch, FieldCounts, Fields


class FeatureEmbedding(nn.Module):
    """Turns row numbers into fields. Call `attach` before the first batch."""

    _item_fields: Tensor
    _user_fields: Tensor

    def __init__(self, schema: FeatureSchema, dim: int) -> None:
        super().__init__()
        self._num_items = schema.num_items
        self._item_sizes = tuple(schema.item_features.values())
        self._user_sizes = tuple(schema.user_features.values())
        sizes = (schema.num_items, *self._item_sizes, schema.num_rating_levels, *self._user_sizes)
        ends = np.cumsum([0, *sizes]).tolist()
        self._item_offsets = ends[1 : 1 + len(self._item_sizes)]
        self._rating_offset = ends[1 + len(self._item_sizes)]
        self._user_offsets = ends[2 + len(self._item_sizes) : -1]
        self.table = nn.Embedding(ends[-1] + 1, dim, padding_idx=0)
        self._initialise(sizes)
        num_fields = 1 + len(self._item_sizes)
        self.counts = FieldCounts(num_fields, num_fields + 1, len(self._user_sizes), dim)
        item_fields = torch.zeros(schema.num_items + 1, num_fields, dtype=torch.int32)
        user_fields = torch.zeros(schema.num_users + 1, len(self._user_sizes), dtype=torch.int32)
        self.register_buffer("_item_fields", item_fields, persistent=False)
        self.register_buffer("_user_fields", user_fields, persistent=False)

    def attach(self, item_codes: NDArray[np.int32], user_codes: NDArray[np.int32]) -> None:
        """Sets each row's category codes, [items + 1, A] and [users + 1, X]; 0 is unknown."""
        ids = np.arange(len(item_codes), dtype=np.int32)[:, None]
        items = np.hstack([ids, _shift(item_codes, self._item_offsets)])
        users = _shift(user_codes, self._user_offsets)
        self._item_fields = torch.from_numpy(items).to(self._item_fields.device)
        self._user_fields = torch.from_numpy(users).to(self._user_fields.device)

    def forward(self, batch: Batch) -> Fields:
        """The batch's fields."""
        B, L = batch.history_item_BL.shape
        target_BN = self._item_fields.index_select(0, batch.item_row_B)
        steps_BLN = self._item_fields.index_select(0, batch.history_item_BL.flatten())
        level_BL = batch.history_rating_BL
        rating_BL = torch.where(level_BL > 0, level_BL + self._rating_offset, 0)
        steps_BLM = torch.cat([steps_BLN.view(B, L, -1), rating_BL[:, :, None]], dim=2)
        user_BX = self._user_fields.index_select(0, batch.user_row_B)
        return Fields(
            target_BNE=self.table(target_BN),
            history_BLME=self.table(steps_BLM),
            mask_BL=batch.history_item_BL > 0,
            extra_BXE=self.table(user_BX),
        )

    def _initialise(self, sizes: Iterable[int]) -> None:
        """Xavier-normal a feature, as if each had a table of its own; row 0 stays zero."""
        with torch.no_grad():
            self.table.weight[0] = 0
            start = 1
            for size in sizes:
                nn.init.xavier_normal_(self.table.weight[start : start + size])
                start += size


def _shift(codes: NDArray[np.int32], offsets: list[int]) -> NDArray[np.int32]:
    """Each column's codes moved to its range of the table; 0 stays 0."""
    offsets_A = np.asarray(offsets, dtype=np.int32)
    return np.where(codes > 0, codes + offsets_A, 0).astype(np.int32)
