"""Features to embeddings: items and what is known of them, ratings of the history, users, context.

One table holds all; a feature owns a range of its rows, and row 0 stands for whatever is unknown,
always zero. Target and history share the items' rows. A feature with several values is the mean of
their rows, a number the one row of its feature times the number: 0, and so a missing one, is zero.

Shapes: B batch, L history, N = 1 + an item's features, M = N + 1 a history step's fields, P = 1 + L
places, U distinct items, K = N·E, X extra fields (the user's features, the context), E embedding
width. As stored, V rows of the table make N fields: A of them one each, G of several or a number.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lorecast.data.dataset import FeatureSchema
from lorecast.models.feature_tables import SideFeatures
from lorecast.models.inputs import Batch, FieldCounts, Fields, History


class FeatureEmbedding(nn.Module):
    """Turns row numbers into fields. Call `attach` before the first batch."""

    _rating_codes: Tensor
    _context_offset_C: Tensor

    def __init__(self, schema: FeatureSchema, dim: int) -> None:
        super().__init__()
        item_sizes = [*schema.item_features.values(), *schema.item_multi.values()]
        user_sizes = [*schema.user_features.values(), *schema.user_multi.values()]
        parts = (
            [schema.num_items, *item_sizes, *(1 for _ in schema.item_numeric)],
            [schema.num_rating_levels],
            [*user_sizes, *(1 for _ in schema.user_numeric)],
            [*schema.context.values()],
        )
        sizes = [size for part in parts for size in part]
        ends = np.cumsum([0, *sizes]).tolist()
        offsets = [ends[sum(map(len, parts[:n])) :][: len(part)] for n, part in enumerate(parts)]
        self.table = nn.Embedding(ends[-1] + 1, dim, padding_idx=0)
        self._initialise(sizes)
        self._num_items = schema.num_items
        self._items = _Side(schema.num_items, offsets[0], 1 + len(schema.item_features))
        self._users = _Side(schema.num_users, offsets[2], len(schema.user_features))
        self.counts = FieldCounts(
            target=len(parts[0]),
            history=len(parts[0]) + 1,
            extra=len(parts[2]) + len(parts[3]),
            dim=dim,
            num_users=schema.num_users,
        )
        levels = torch.arange(schema.num_rating_levels + 1, dtype=torch.int32)
        rating_codes = torch.where(levels > 0, levels + offsets[1][0], 0)
        context_offset_C = torch.tensor(offsets[3], dtype=torch.int32)
        self.register_buffer("_rating_codes", rating_codes, persistent=False)
        self.register_buffer("_context_offset_C", context_offset_C, persistent=False)

    def attach(self, items: SideFeatures, users: SideFeatures) -> None:
        """Sets each row's features, see `feature_tables`. Rows beyond the schema's are of entities
        that training did not know: their id is the unknown one's, their features are their own."""
        ids = np.arange(len(items.codes), dtype=np.int32)[:, None]
        ids[ids > self._num_items] = 0
        self._items.attach(np.hstack([ids, items.codes]), items)
        self._users.attach(users.codes, users)

    def forward(self, batch: Batch, item_field: Callable[[Tensor], Tensor] | None = None) -> Fields:
        """The batch's fields. `item_field`: rows of distinct items to one more field of each,
        field_UE; it must be zero for row 0."""
        row_U, place_B, place_BL = self._places(batch, few=item_field is not None)
        code_UV, code_BV = self._items.codes(row_U), self._users.codes(batch.user_row_B)
        # One look-up for all: each has a gradient as large as the table.
        codes = [code_UV, self._rating_codes, code_BV, *self._context(batch)]
        found = self.table(torch.cat([code.flatten() for code in codes]))
        item_UVE, rating_RE, user_BVE, *context = (
            rows.view(*code.shape, self.counts.dim)
            for code, rows in zip(codes, found.split([c.numel() for c in codes]), strict=True)
        )
        item_UNE = self._items.fields(item_UVE, row_U)
        if item_field is not None and row_U is not None:
            item_UNE = torch.cat([item_UNE, item_field(row_U)[:, None]], dim=1)
        extra_BXE = self._users.fields(user_BVE, batch.user_row_B)
        if context:
            extra_BXE = torch.cat([extra_BXE, *context], dim=1)
        item_UK = item_UNE.flatten(1)
        return Fields(
            target_BNE=item_UK.index_select(0, place_B).view(-1, *item_UNE.shape[1:]),
            history=History(
                item_UK=item_UK,
                place_BL=place_BL,
                rating_RE=rating_RE,
                level_BL=batch.history_rating_BL.long(),
                mask_BL=batch.history_item_BL > 0,
            ),
            extra_BXE=extra_BXE,
            user_row_B=torch.where(batch.user_row_B > self.counts.num_users, 0, batch.user_row_B),
        )

    def _places(self, batch: Batch, *, few: bool) -> tuple[Tensor | None, Tensor, Tensor]:
        """(row_U, place_B, place_BL): items, and where targets and steps of histories stand."""
        target_B, history_BL = batch.item_row_B, batch.history_item_BL
        if history_BL.shape[0] == target_B.shape[0]:
            row_U, place_BP = self._distinct(torch.cat([target_B[:, None], history_BL], 1), few=few)
            return row_U, place_BP[:, 0], place_BP[:, 1:]
        row_U = torch.cat([target_B, history_BL[0]])
        if few:
            row_U, place_U = torch.unique(row_U, return_inverse=True)
        else:  # to look an item up twice costs less than to find that it occurs twice
            place_U = torch.arange(len(row_U), device=row_U.device)
        place_B, place_L = place_U.split([len(target_B), history_BL.shape[1]])
        return row_U, place_B, place_L[None]

    def _distinct(self, row_BP: Tensor, *, few: bool) -> tuple[Tensor | None, Tensor]:
        """(row_U, place_BP): items, each once, and where each place's is.

        Of a small catalogue all items (None), which costs less than finding out which occur, unless
        `few` of them are wanted.
        """
        if self._items.num_rows <= row_BP.numel() and not few:
            return None, row_BP.long()
        row_U, place_BP = torch.unique(row_BP, return_inverse=True)
        return row_U, place_BP

    def _context(self, batch: Batch) -> list[Tensor]:
        """[code_BC], or none if there is no context."""
        if not len(self._context_offset_C):
            return []
        assert batch.context_BC is not None, "the schema has context features"
        code_BC = batch.context_BC
        return [torch.where(code_BC > 0, code_BC + self._context_offset_C, 0)]

    def _initialise(self, sizes: Iterable[int]) -> None:
        """Xavier-normal a feature, as if each had a table of its own; row 0 stays zero."""
        with torch.no_grad():
            self.table.weight[0] = 0
            start = 1
            for size in sizes:
                nn.init.xavier_normal_(self.table.weight[start : start + size])
                start += size


class _Side(nn.Module):
    """Where the features of a side's rows stand in the table, and how they become fields."""

    code_RV: Tensor
    scale_RG: Tensor

    def __init__(self, num_rows: int, offsets: Sequence[int], num_single: int) -> None:
        """`offsets` of all features: first those with one value, then several, then numbers."""
        super().__init__()
        self.num_rows = num_rows + 1
        self._offsets = offsets
        self._num_single = num_single
        self._widths = [1] * (len(offsets) - num_single)
        """How many rows of the table each of G takes."""
        code_RV = torch.zeros(self.num_rows, len(offsets), dtype=torch.int32)
        self.register_buffer("code_RV", code_RV, persistent=False)
        scale_RG = torch.zeros(self.num_rows, len(self._widths))
        self.register_buffer("scale_RG", scale_RG, persistent=False)

    def attach(self, code_RA: NDArray[np.int32], features: SideFeatures) -> None:
        """Sets all rows' features; `code_RA`: those with one value."""
        several = list(features.multi.values())
        has_number_RK = (features.numbers != 0).astype(np.int32)
        columns = [*_columns(code_RA), *several, *_columns(has_number_RK)]
        assert len(columns) == len(self._offsets), "the features are not those of the schema"
        self._widths = [code_RW.shape[1] for code_RW in columns[self._num_single :]]
        moved = [
            np.where(code_RW > 0, code_RW + offset, 0)
            for code_RW, offset in zip(columns, self._offsets, strict=True)
        ]
        shares = [1 / np.maximum((code_RW > 0).sum(1, keepdims=True), 1) for code_RW in several]
        code_RV = np.hstack([code_RA[:, :0], *moved]).astype(np.int32)
        scale_RG = np.hstack([*shares, features.numbers]).astype(np.float32)
        self.num_rows = len(code_RV)
        self.code_RV = torch.from_numpy(code_RV).to(self.code_RV.device)
        self.scale_RG = torch.from_numpy(scale_RG).to(self.scale_RG.device)

    def codes(self, row_U: Tensor | None) -> Tensor:
        """code_UV of these rows, or of all."""
        return self.code_RV if row_U is None else self.code_RV.index_select(0, row_U)

    def fields(self, found_UVE: Tensor, row_U: Tensor | None) -> Tensor:
        """field_UNE of the same rows, from what the table has at their codes."""
        if not self._widths:
            return found_UVE
        scale_UG = self.scale_RG if row_U is None else self.scale_RG.index_select(0, row_U)
        widths = [self._num_single, *self._widths]
        single_UAE, *groups = torch.split(found_UVE, widths, dim=1)
        sum_UGE = torch.stack([group_UWE.sum(1) for group_UWE in groups], dim=1)
        return torch.cat([single_UAE, sum_UGE * scale_UG[:, :, None]], dim=1)


def _columns(table_RK: NDArray[np.int32]) -> list[NDArray[np.int32]]:
    """Each column, [R, 1]."""
    return [table_RK[:, place : place + 1] for place in range(table_RK.shape[1])]
