"""What shows that a model knows the answers of the frozen slice: whoever does is no fair contender.

- It reads an input that the experiment does not declare.
- It was trained on rows of the slice. One trained on the slice's own dataset was not; for one of
  another dataset that is looked up in the dataset itself, which must still be in the workspace.
- The texts about its users were written with sight of rows of the slice.

What these cannot see, a gain too good to be true may still show: see `policy`.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lorecast import remote
from lorecast.config import Side
from lorecast.data.dataset import Dataset
from lorecast.data.layout import SPLITS, STAGE, samples_folder
from lorecast.errors import LeakageError
from lorecast.knowledge.leakage import UNKNOWN_END, check_no_leak
from lorecast.lifecycle.bundle import Bundle
from lorecast.lifecycle.card import BundleCard
from lorecast.lifecycle.frozen import FrozenSlice
from lorecast.lifecycle.inputs import features_of

_KEY, _TIME = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)
"""Odd factors that spread a pair and its time over 64 bits."""


def leaks(bundle: BundleCard, frozen: FrozenSlice, workspace: Path) -> tuple[str, ...]:
    """A sentence for each leak; none: none was found. `workspace` holds the prepared datasets."""
    return tuple(_found(bundle, frozen, workspace))


def _found(bundle: BundleCard, frozen: FrozenSlice, workspace: Path) -> Iterator[str]:
    if isinstance(bundle, Bundle):
        declared = set(features_of(frozen.dataset.schema))
        for each in features_of(bundle.schema):
            if each not in declared:
                yield f"it reads {each}, which the experiment's dataset does not declare"
    digest = bundle.fingerprints["dataset"]
    own = frozen.dataset if digest == frozen.dataset.fingerprint else _dataset(workspace, digest)
    if own is None:
        yield (
            f"the dataset it was trained on ({digest[:8]}) is not in {workspace / STAGE}, so "
            "nothing shows that it did not train on these rows"
        )
        return
    if own is not frozen.dataset and (seen := int(_trained_on(own, frozen).sum())):
        yield f"{seen:,} of {len(frozen):,} rows were in its training part"
    if isinstance(bundle, Bundle) and bundle.knowledge and "user" in bundle.knowledge.sides:
        yield from _of_user_texts(bundle, own, frozen)


def _dataset(workspace: Path, digest: str) -> Dataset | None:
    for folder in remote.listed(workspace / STAGE, f"*-{digest[:8]}"):
        dataset = Dataset.open(folder)
        if dataset.fingerprint == digest:
            return dataset
    return None


def _trained_on(own: Dataset, frozen: FrozenSlice) -> NDArray[np.bool_]:
    """Which rows of the slice are rows of another dataset's training part, [B]."""
    wanted_B = _codes(
        _rows_in(own, "user", frozen)[frozen.samples.user_row_B],
        _rows_in(own, "item", frozen)[frozen.samples.item_row_B],
        frozen.samples.timestamp_B,
    )
    seen_B = np.zeros(len(frozen), bool)
    columns = ["user_row", "item_row", "timestamp"]
    for part in sorted(samples_folder(own.path, "train").glob("*.parquet")):
        for rows in pq.ParquetFile(part).iter_batches(columns=columns):
            codes = _codes(*(rows[name].to_numpy() for name in columns))
            seen_B |= np.isin(wanted_B, codes)
    return seen_B


def _codes(
    user_row_B: NDArray[np.integer], item_row_B: NDArray[np.integer], time_B: NDArray[np.integer]
) -> NDArray[np.uint64]:
    """Who met what when, as one number."""
    pair_B = user_row_B.astype(np.uint64) << np.uint64(32) | item_row_B.astype(np.uint64)
    return pair_B * _KEY + time_B.astype(np.uint64) * _TIME


def _rows_in(own: Dataset, side: Side, frozen: FrozenSlice) -> NDArray[np.int64]:
    """Rows of another dataset by rows of the slice's, 0 where it does not know the entity: [R]."""
    theirs, ours = (
        (each.users() if side == "user" else each.items())["id"].combine_chunks()
        for each in (own, frozen.dataset)
    )
    place = pc.index_in(ours, value_set=theirs.cast(ours.type))
    return np.concatenate([[0], 1 + place.fill_null(-1).to_numpy().astype(np.int64)])


def _of_user_texts(bundle: Bundle, own: Dataset, frozen: FrozenSlice) -> Iterator[str]:
    end_R = bundle.history_end()
    if end_R is None:
        yield "its bundle does not say how far the writer of its users' texts saw; make it again"
    elif own is frozen.dataset:
        samples, ids = frozen.samples, frozen.dataset.users()["id"].to_pylist()
        try:
            check_no_leak(samples.user_row_B, samples.position_B, end_R, ids)
        except LeakageError as error:
            yield str(error)
    else:
        row_B = _rows_in(own, "user", frozen)[frozen.samples.user_row_B]
        unseen_from_B = _unseen_from(own, end_R)[row_B]
        seen = np.count_nonzero((row_B > 0) & (frozen.samples.timestamp_B < unseen_from_B))
        if seen:
            yield f"the texts about its users may have seen {seen:,} of {len(frozen):,} rows"


def _unseen_from(own: Dataset, end_R: NDArray[np.int32]) -> NDArray[np.int64]:
    """By user row, the time of the first sample that the writer of the user's texts did not see;
    positions of another dataset need not be this one's. [R]"""
    first_R = np.where(end_R < 0, np.iinfo(np.int64).min, np.iinfo(np.int64).max)
    columns = ["user_row", "position", "timestamp"]
    for split in SPLITS:
        for part in sorted(samples_folder(own.path, split).glob("*.parquet")):
            for rows in pq.ParquetFile(part).iter_batches(columns=columns):
                row_B, position_B, time_B = (rows[name].to_numpy() for name in columns)
                unseen = (position_B > end_R[row_B]) & (end_R[row_B] != UNKNOWN_END)
                np.minimum.at(first_R, row_B[unseen], time_B[unseen])
    return first_R
