"""Vectors that exist already, as chunks of the vectors table beside those of texts.

They take the table's width: wider ones by their own leading principal components, narrower ones
with zeros behind. Their mean length becomes 1, as that of texts' vectors.

Legend: R rows with row 0, H their width, C chunks, D the table's width.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lorecast.config import Side
from lorecast.encoding.components import leading
from lorecast.encoding.vectors import VectorsWriter


def open_arrays(folder: Path, side: Side, num_rows: int, num_chunks: int, dim: int) -> None:
    """Empty arrays of a side in `folder`, unless there are some; `num_rows` counts entities."""
    if not (folder / f"{side}.npy").exists():
        VectorsWriter(folder, side, num_rows, num_chunks, dim).close()


def put(
    folder: Path,
    side: Side,
    chunk: int,
    vector_RH: NDArray[np.float32],
    known_R: NDArray[np.bool_],
) -> None:
    """Writes vectors to their chunk of the arrays in `folder`; unknown rows stay empty."""
    vectors: np.memmap[Any, Any] = np.load(folder / f"{side}.npy", mmap_mode="r+")
    mask: np.memmap[Any, Any] = np.load(folder / f"{side}_mask.npy", mmap_mode="r+")
    vectors[known_R, chunk] = fitted(vector_RH[known_R], vectors.shape[2])
    mask[known_R, chunk] = True
    for array in (vectors, mask):
        array.flush()


def fitted(vector_NH: NDArray[np.float32], dim: int) -> NDArray[np.float16]:
    """The vectors in another width, of mean length 1: [N, D]."""
    width = vector_NH.shape[1]
    if width > dim:
        centred_NH = vector_NH - vector_NH.mean(0)
        vector_ND = vector_NH @ leading(centred_NH.T @ centred_NH, dim)
    else:
        vector_ND = np.pad(vector_NH, ((0, 0), (0, dim - width)))
    length = np.linalg.norm(vector_ND, axis=1).mean()
    scaled_ND: NDArray[np.float16] = (vector_ND / max(float(length), 1e-6)).astype(np.float16)
    return scaled_ND
