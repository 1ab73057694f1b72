"""CoLLM's split as it was published: row counts, and which test rows are warm."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lorecast.config import SellaConfig
from lorecast.data.dataset import Dataset
from lorecast.data.layout import Split
from lorecast.evaluation.grouping import group_codes
from lorecast.evaluation.metrics import auc_by_group
from lorecast.sella.rows import PromptRows, trained_rows


class Count(NamedTuple):
    """Of some rows."""

    rows: int
    users: int
    items: int
    positive_share: float
    """To four decimals."""
    with_history: int
    """Rows before which something was liked."""
    users_with_both: int
    """Those that count for UAUC."""


PUBLISHED = {
    "train": Count(33_891, 740, 3_087, 0.5368, 32_616, 640),
    "valid": Count(10_401, 356, 2_506, 0.5283, 10_298, 282),
    "test": Count(7_331, 320, 2_203, 0.5454, 7_269, 224),
}
WARM_ROWS, COLD_ROWS = 4_153, 3_178


def load(dataset: Dataset, split: Split) -> PromptRows:
    """All rows of a split, as the default prompts show them."""
    return PromptRows.load(dataset, split, SellaConfig(), 1.0)


def counts(dataset: Dataset) -> dict[str, Count]:
    """What there is of each split."""
    return {split: _count(load(dataset, split)) for split in PUBLISHED}


def warm_rows(dataset: Dataset) -> NDArray[np.bool_]:
    """Test rows whose user and item both have training rows, [B]."""
    train, test = load(dataset, "train"), load(dataset, "test")
    user_R = trained_rows(train.user_row_B, dataset.schema.num_users)
    item_R = trained_rows(train.item_row_B, dataset.schema.num_items)
    warm_B: NDArray[np.bool_] = user_R[test.user_row_B] & item_R[test.item_row_B]
    return warm_B


def _count(rows: PromptRows) -> Count:
    by_user = auc_by_group(group_codes(rows.user_row_B), rows.label_B, rows.label_B)
    return Count(
        rows=len(rows),
        users=len(np.unique(rows.user_row_B)),
        items=len(np.unique(rows.item_row_B)),
        positive_share=round(float(rows.label_B.mean()), 4),
        with_history=len(rows.with_history()),
        users_with_both=len(by_user.code_G),
    )
