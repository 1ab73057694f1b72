"""Prestored knowledge: what an extractor makes of an entity by itself, worked out before serving.

After Xi et al. 2024 (arXiv 2408.10520): of HEIN and its controls that is the whole augmentation; of
KSER the keys, values and looks of the entity's chunks. Serving then gathers a row an entity instead
of projecting its vectors, and needs no vectors.

Shapes: B batch, U distinct entities, I width of a side's rows, as the extractor lays them out.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lorecast.config import Side
from lorecast.models.inputs import Batch
from lorecast.models.knowledge import SideKnowledge, SideMeans


class StoredRows(NamedTuple):
    """One side's prestored knowledge of a batch, a row a sample."""

    row_BI: Tensor


Known = SideKnowledge | SideMeans | StoredRows
"""One side's knowledge of a batch, in the form that the extractor reads."""


def sample_rows(entity_rows: Callable[[Side, Any], Tensor], side: Side, known: Known) -> Tensor:
    """row_BI of each sample: as prestored, or worked out once a distinct entity."""
    if isinstance(known, StoredRows):
        return known.row_BI
    return entity_rows(side, known).index_select(0, known.entity_B)


@dataclass(frozen=True)
class EntityTables:
    """Prestored rows of every entity; arrays may be memory-mapped."""

    tables: Mapping[Side, NDArray[np.float32]]
    """[rows + 1, I] of each side that has knowledge."""

    def gather(self, batch: Batch) -> dict[Side, StoredRows]:
        """The rows of the batch's users and items."""
        rows = {"item": batch.item_row_B, "user": batch.user_row_B}
        return {side: StoredRows(self.rows(side, rows[side])) for side in self.tables}

    def rows(self, side: Side, row_B: Tensor) -> Tensor:
        """row_BI of one side's entities."""
        row_BI = self.tables[side].take(row_B.cpu().numpy(), axis=0)
        return torch.from_numpy(row_BI).to(row_B.device)
