"""Parts of the test samples that may fare differently: the cold, the rare, the unknown to the LLM.

Counts are of samples in the training part; a user's prefix, which only histories and prompts see,
is none of them.

Legend: B test samples, R rows of a side's table.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lorecast.config import Side
from lorecast.data.batches import Samples
from lorecast.data.dataset import Dataset
from lorecast.data.layout import samples_folder

_BOUNDS = ((1, 5), (6, 20), (21, None))
_QUARTERS = ("least popular", "second", "third", "most popular")


@dataclass(frozen=True, eq=False)
class Slice:
    """Some of the test samples."""

    family: str
    """What tells this slice from its neighbours."""
    name: str
    mask_B: NDArray[np.bool_]


def training_counts(dataset: Dataset) -> dict[Side, NDArray[np.int64]]:
    """Samples of the training part by row, [R]; reads one row group at a time."""
    counts: dict[Side, NDArray[np.int64]] = {
        "user": np.zeros(dataset.schema.num_users + 1, np.int64),
        "item": np.zeros(dataset.schema.num_items + 1, np.int64),
    }
    for part in sorted(samples_folder(dataset.path, "train").glob("*.parquet")):
        for group in pq.ParquetFile(part).iter_batches(columns=["user_row", "item_row"]):
            for side, count_R in counts.items():
                count_R += np.bincount(group[f"{side}_row"].to_numpy(), minlength=len(count_R))
    return counts


def slices(
    test: Samples,
    counts: Mapping[Side, NDArray[np.int64]],
    has_text: Mapping[str, tuple[Side, NDArray[np.bool_]]],
) -> tuple[Slice, ...]:
    """All slices of the test part, those without samples included.

    `counts`: as `training_counts` gives them. `has_text`: for each kind of knowledge its side and
    whether a row has any text, [R].
    """
    rows: dict[Side, NDArray[np.int32]] = {"user": test.user_row_B, "item": test.item_row_B}
    found = [
        each for side, row_B in rows.items() for each in _by_count(f"{side}s", counts[side][row_B])
    ]
    found += _by_pair(counts["user"][test.user_row_B], counts["item"][test.item_row_B])
    found += _by_popularity(counts["item"], test.item_row_B)
    for name, (side, has_text_R) in has_text.items():
        known_B = has_text_R[rows[side]]
        found += [Slice(name, "some", known_B), Slice(name, "none", ~known_B)]
    return (*found, *_by_history(test.history_item_BL))


def _by_count(who: str, count_B: NDArray[np.int64]) -> Iterator[Slice]:
    yield Slice(who, "cold (not in training)", count_B == 0)
    yield Slice(who, "warm", count_B > 0)
    for low, high in _BOUNDS:
        name = f"{low}–{high}" if high else f"over {low - 1}"
        within = (count_B >= low) & (count_B <= (high or np.inf))
        yield Slice(who, f"{name} training samples", within)


def _by_pair(user_count_B: NDArray[np.int64], item_count_B: NDArray[np.int64]) -> Iterator[Slice]:
    """As CoLLM parts its test rows (`not_cold`)."""
    warm_B = (user_count_B > 0) & (item_count_B > 0)
    yield Slice("pairs", "cold (user or item not in training)", ~warm_B)
    yield Slice("pairs", "warm", warm_B)


def _by_popularity(count_R: NDArray[np.int64], item_row_B: NDArray[np.int32]) -> Iterator[Slice]:
    """Quarters of the items, not of the samples; equally popular items stay together."""
    quartiles = np.quantile(count_R[1:], [0.25, 0.5, 0.75])
    quarter_B = np.searchsorted(quartiles, count_R[item_row_B])
    for number, name in enumerate(_QUARTERS):
        yield Slice("item popularity", f"{name} quarter", quarter_B == number)


def _by_history(history_item_BL: NDArray[np.int32]) -> Iterator[Slice]:
    length_B, full = (history_item_BL > 0).sum(1), history_item_BL.shape[1]
    yield Slice("history", "empty", length_B == 0)
    yield Slice("history", f"shorter than {full}", (length_B > 0) & (length_B < full))
    yield Slice("history", f"full ({full})", length_B == full)
