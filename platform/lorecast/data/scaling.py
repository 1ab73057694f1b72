"""Numeric features on one scale: mean 0 and standard deviation 1 over what is trained on."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lorecast.config import Side
from lorecast.data.layout import samples_folder
from lorecast.errors import InputError


class Scale(NamedTuple):
    """Of the entities that training samples are about, each counted once."""

    mean: float
    std: float


def trained_entities(dataset: Path, side: Side, num_entities: int) -> NDArray[np.bool_]:
    """Whether training samples are about entity i (row i + 1): [rows]."""
    trained = np.zeros(num_entities, np.bool_)
    for part in sorted(samples_folder(dataset, "train").iterdir()):
        rows = pq.read_table(part, columns=[f"{side}_row"])[0].to_numpy()
        trained[rows - 1] = True
    return trained


def standardise(
    values: pa.DoubleArray, trained: NDArray[np.bool_], column: str, key: str
) -> tuple[pa.FloatArray, Scale]:
    """The numbers on the scale of the trained entities; missing ones become 0, the mean.

    Raises InputError, naming column and config key, if all trained entities have the same number.
    """
    number_N = values.to_numpy(zero_copy_only=False)
    known = number_N[trained & ~np.isnan(number_N)]
    if not known.size or known.min() == known.max():
        raise InputError(
            f"column {column!r} (named in {key}) has no two different numbers among training rows, "
            "so there is nothing to learn from it: leave it out"
        )
    scale = Scale(float(known.mean()), float(known.std()))
    scaled_N = np.nan_to_num((number_N - scale.mean) / scale.std).astype(np.float32)
    return pa.array(scaled_N), scale
