"""Features to embeddings: items and their categories, ratings of the history, users' categories.

One table holds all; a feature owns a range of its rows, and row 0 stands for whatever is unknown,
always zero. Target and history share the items' rows.

Shapes: B batch, L history, N = 1 + A an item's fields (id, categories), M = N + 1 a history
step's, P = 1 + L places, U distinct items, K = N·E, X a user's categories, E embedding width.
"""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lorecast.data.dataset import FeatureSchema
from lorecast.models.inputs import Batch, FieldCounts, Fields, History


class FeatureEmbedding(nn.Module):
    """Turns row numbers into fields. Call `attach` before the first batch."""

    _rating_codes: Tensor
    _item_fields: Tensor
    _user_fields: Tensor

    def __init__(self, schema: FeatureSchema, dim: int) -> None:
        super().__init__()
        self._item_sizes = tuple(schema.item_features.values())
        self._user_sizes = tuple(schema.user_features.values())
        sizes = (schema.num_items, *self._item_sizes, schema.num_rating_levels, *self._user_sizes)
        ends = np.cumsum([0, *sizes]).tolist()
        self._item_offsets = ends[1 : 1 + len(self._item_sizes)]
        rating_offset = ends[1 + len(self._item_sizes)]
        self._user_offsets = ends[2 + len(self._item_sizes) : -1]
        self.table = nn.Embedding(ends[-1] + 1, dim, padding_idx=0)
        self._initialise(sizes)
        num_fields = 1 + len(self._item_sizes)
        self.counts = FieldCounts(num_fields, num_fields + 1, len(self._user_sizes), dim)
        item_fields = torch.zeros(schema.num_items + 1, num_fields, dtype=torch.int32)
        user_fields = torch.zeros(schema.num_users + 1, len(self._user_sizes), dtype=torch.int32)
        levels = torch.arange(schema.num_rating_levels + 1, dtype=torch.int32)
        rating_codes = torch.where(levels > 0, levels + rating_offset, 0)
        self.register_buffer("_rating_codes", rating_codes, persistent=False)
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
        row_BP = torch.cat([batch.item_row_B[:, None], batch.history_item_BL], dim=1)
        code_UN, place_BP = self._distinct(row_BP)
        code_BX = self._user_fields.index_select(0, batch.user_row_B)
        # One look-up for all: each has a gradient as large as the table.
        codes = (code_UN, self._rating_codes, code_BX)
        found = self.table(torch.cat([code.flatten() for code in codes]))
        item_UNE, rating_RE, extra_BXE = (
            rows.view(*code.shape, self.counts.dim)
            for code, rows in zip(codes, found.split([c.numel() for c in codes]), strict=True)
        )
        item_UK = item_UNE.flatten(1)
        return Fields(
            target_BNE=item_UK.index_select(0, place_BP[:, 0]).view(-1, *item_UNE.shape[1:]),
            history=History(
                item_UK=item_UK,
                place_BL=place_BP[:, 1:],
                rating_RE=rating_RE,
                level_BL=batch.history_rating_BL.long(),
                mask_BL=batch.history_item_BL > 0,
            ),
            extra_BXE=extra_BXE,
        )

    def _distinct(self, row_BP: Tensor) -> tuple[Tensor, Tensor]:
        """(code_UN, place_BP): fields of items, each once, and where each row's are.

        Of a small catalogue all items, which costs less than finding out which occur.
        """
        if len(self._item_fields) <= row_BP.numel():
            return self._item_fields, row_BP.long()
        row_U, place_BP = torch.unique(row_BP, return_inverse=True)
        return self._item_fields.index_select(0, row_U), place_BP

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
