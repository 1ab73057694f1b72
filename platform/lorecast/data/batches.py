"""Samples as contiguous arrays. Legend: B samples, L history, K context features."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lorecast.data.dataset import Dataset
from lorecast.data.layout import CONTEXT_PREFIX, Split, samples_folder
from lorecast.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Samples of one split, or of a shard of it, in file order (see `layout`)."""

    user_row_B: NDArray[np.int32]
    item_row_B: NDArray[np.int32]
    label_B: NDArray[np.int8]
    timestamp_B: NDArray[np.int64]
    """Seconds since 1970."""
    position_B: NDArray[np.int32]
    """Rank of the interaction inside its user's order, from 0."""
    history_item_BL: NDArray[np.int32]
    """Item rows, newest last, 0 on the left where the history is shorter."""
    history_rating_BL: NDArray[np.int8]
    """Rating level codes of the same interactions; 0 where they have none."""
    context_BK: NDArray[np.int32] = field(default_factory=lambda: np.empty((0, 0), np.int32))
    """Codes of the moment's categories, in the order of the schema; 0 is unknown."""

    def __post_init__(self) -> None:
        if not self.context_BK.shape[1]:  # who has no category need not say for how many samples
            object.__setattr__(self, "context_BK", np.empty((len(self), 0), np.int32))

    @classmethod
    def unlabelled(
        cls,
        *,
        user_row_B: NDArray[np.int32],
        item_row_B: NDArray[np.int32],
        history_item_BL: NDArray[np.int32],
        history_rating_BL: NDArray[np.int8],
        context_BK: NDArray[np.int32],
    ) -> "Samples":
        """Samples to be scored: nothing is known of label, time and position, which are 0."""
        count = len(user_row_B)
        return cls(
            user_row_B=user_row_B,
            item_row_B=item_row_B,
            label_B=np.zeros(count, np.int8),
            timestamp_B=np.zeros(count, np.int64),
            position_B=np.zeros(count, np.int32),
            history_item_BL=history_item_BL,
            history_rating_BL=history_rating_BL,
            context_BK=context_BK,
        )

    def __len__(self) -> int:
        return len(self.label_B)

    def take(self, index: NDArray[np.integer] | slice) -> "Samples":
        """The samples at these places, in this order; a slice gives views."""
        return Samples(**{field.name: getattr(self, field.name)[index] for field in fields(self)})


def load_samples(
    dataset: Dataset,
    split: Split | tuple[Split, ...],
    shard: int = 0,
    num_shards: int = 1,
    *,
    most_bytes: int | None = None,
) -> Samples:
    """Shard `shard` of a split, or of several in a row: a contiguous run of the rows; sizes differ
    by at most one.

    Peak memory is the result plus one row group. A result above `most_bytes` lies in memory-mapped
    files without a name, which the system reads and drops by the page as rows are taken in any
    order. Raises InputError if the split is empty.
    """
    assert 0 <= shard < num_shards
    splits = (split,) if isinstance(split, str) else split
    parts = [
        part
        for each in splits
        for part in sorted(samples_folder(dataset.path, each).glob("*.parquet"))
    ]
    files = [pq.ParquetFile(part) for part in parts]
    num_rows = sum(file.metadata.num_rows for file in files)
    if num_rows == 0:
        raise InputError(f"{dataset.path}: the split {split!r} has no samples; prepare again")
    first, last = num_rows * shard // num_shards, num_rows * (shard + 1) // num_shards
    contexts = list(dataset.schema.context)
    samples = _allocate(last - first, dataset.history_length, len(contexts), most_bytes)
    start = 0
    for file in files:
        for group in range(file.num_row_groups):
            stop = start + file.metadata.row_group(group).num_rows
            low, high = max(start, first), min(stop, last)
            if low < high:
                table = file.read_row_group(group).slice(low - start, high - low)
                _fill(samples.take(slice(low - first, high - first)), table, contexts)
            start = stop
    return samples


_COLUMNS = {
    "user_row_B": "user_row",
    "item_row_B": "item_row",
    "label_B": "label",
    "timestamp_B": "timestamp",
    "position_B": "position",
    "history_item_BL": "history_item_rows",
    "history_rating_BL": "history_ratings",
}


def _allocate(
    num_rows: int, history_length: int, num_contexts: int, most_bytes: int | None
) -> Samples:
    columns: dict[str, tuple[type[np.integer], tuple[int, ...]]] = {
        "user_row_B": (np.int32, ()),
        "item_row_B": (np.int32, ()),
        "label_B": (np.int8, ()),
        "timestamp_B": (np.int64, ()),
        "position_B": (np.int32, ()),
        "history_item_BL": (np.int32, (history_length,)),
        "history_rating_BL": (np.int8, (history_length,)),
        "context_BK": (np.int32, (num_contexts,)),
    }
    sizes = [np.dtype(dtype).itemsize * math.prod(shape) for dtype, shape in columns.values()]
    is_large = most_bytes is not None and num_rows * sum(sizes) > most_bytes
    create: Callable[..., Any] = _mapped if is_large else np.empty
    return Samples(
        **{name: create((num_rows, *shape), dtype) for name, (dtype, shape) in columns.items()}
    )


def _mapped(shape: tuple[int, ...], dtype: type[np.integer]) -> NDArray[np.integer]:
    """An array in a file that is gone with it."""
    if not math.prod(shape):
        return np.empty(shape, dtype)
    with TemporaryFile(prefix="lorecast-samples-") as file:
        return np.memmap(file, dtype, "w+", shape=shape)


def _fill(target: Samples, table: pa.Table, contexts: Sequence[str]) -> None:
    for place, name in enumerate(contexts):
        target.context_BK[:, place] = table[CONTEXT_PREFIX + name].to_numpy()
    for name, column in _COLUMNS.items():
        array: NDArray[np.integer] = getattr(target, name)
        values = table[column].combine_chunks()
        if array.ndim == 2:
            values = values.flatten()
        array[...] = values.to_numpy().reshape(array.shape)
