"""Text vectors by their leading principal components.

    components.npy     float32 [D, R], the directions that stay; a stored vector is `vector @ it`

Texts of one domain vary in few of an encoder's directions, and all that reads the table pays for
its width. What the texts of a chunk have in common is not counted as variance: extractors take it
out. Legend: U entities, S texts, C chunks, D encoder width, R components.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lorecast.config import Side

COMPONENTS: Final = "components.npy"
_SAMPLED_ROWS = 20_000
"""Entities a side from which the directions are computed."""
_BLOCK_VALUES = 2**23
"""Numbers read at once."""


def keep_components(folder: Path, sides: Sequence[Side], num_components: int) -> float:
    """Rewrites the arrays of `sides` in `folder` from [rows + 1, C, D] to [rows + 1, C, R].

    R must not exceed D. Returns the share of the variance around the chunks' means that stays.
    """
    covariance_DD = sum(_scatter_matrix(folder, side) for side in sides)
    assert isinstance(covariance_DD, np.ndarray), "no side has texts"
    basis_DR = leading(covariance_DD, num_components)
    map_to(folder, sides, basis_DR)
    np.save(folder / COMPONENTS, basis_DR)
    variance = np.trace(covariance_DD)
    kept = np.einsum("dr,de,er->", basis_DR, covariance_DD, basis_DR, optimize=True)
    return float(kept / variance) if variance > 0 else 1.0


def map_to(folder: Path, sides: Sequence[Side], basis_DR: NDArray[np.float32]) -> None:
    """Rewrites the arrays of `sides` in `folder` as their products with a basis."""
    for side in sides:
        _rewrite(folder / f"{side}.npy", basis_DR)


def mapped(vectors: NDArray[np.float16], basis_DR: NDArray[np.float32]) -> NDArray[np.float16]:
    """The products of vectors [..., D] with a basis: [..., R]."""
    product: NDArray[np.float32] = vectors.astype(np.float32) @ basis_DR
    return product.astype(np.float16)


def leading(covariance_DD: NDArray[np.floating], num_components: int) -> NDArray[np.float32]:
    """The directions of most variance, the first of most: [D, R]."""
    direction_DR = np.linalg.eigh(covariance_DD)[1][:, ::-1][:, :num_components]
    # An eigenvector's sign is open: its largest entry is positive.
    largest_R = np.abs(direction_DR).argmax(axis=0)
    sign_R = np.sign(np.take_along_axis(direction_DR, largest_R[None], axis=0))
    basis_DR: NDArray[np.float32] = (direction_DR * sign_R).astype(np.float32)
    return basis_DR


def _scatter_matrix(folder: Path, side: Side) -> NDArray[np.float64]:
    """Σ (k − m_c)(k − m_c)ᵀ over the texts of evenly spaced entities, m_c their chunk's mean:
    [D, D]."""
    vectors: NDArray[np.float16] = np.load(folder / f"{side}.npy", mmap_mode="r")
    mask: NDArray[np.bool_] = np.load(folder / f"{side}_mask.npy", mmap_mode="r")
    _, C, D = vectors.shape
    place_U = np.unique(np.linspace(1, len(vectors) - 1, _SAMPLED_ROWS).astype(np.int64))
    product_DD, total_CD, number_C = np.zeros((D, D)), np.zeros((C, D)), np.zeros(C)
    for start, stop in _blocks(len(place_U), C * D):
        # Places without a text hold zeros and add nothing.
        vector_UCD = vectors[place_U[start:stop]].astype(np.float64)
        vector_SD = vector_UCD.reshape(-1, D)
        product_DD += vector_SD.T @ vector_SD
        total_CD += vector_UCD.sum(axis=0)
        number_C += mask[place_U[start:stop]].sum(axis=0)
    mean_CD = total_CD / np.maximum(number_C, 1)[:, None]
    scatter_DD: NDArray[np.float64] = product_DD - total_CD.T @ mean_CD
    return scatter_DD


def _rewrite(path: Path, basis_DR: NDArray[np.float32]) -> None:
    """The array in `path`, its last axis mapped by the basis."""
    vectors: NDArray[np.float16] = np.load(path, mmap_mode="r")
    rows, C, D = vectors.shape
    partial = path.with_name(f".{path.name}.partial")
    create: Any = np.lib.format.open_memmap
    kept = create(partial, "w+", np.float16, (rows, C, basis_DR.shape[1]))
    for start, stop in _blocks(rows, C * D):
        kept[start:stop] = mapped(vectors[start:stop], basis_DR)
    kept.flush()
    partial.replace(path)


def _blocks(num_rows: int, row_size: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of runs of rows of at most _BLOCK_VALUES numbers, at least a row each."""
    length = max(_BLOCK_VALUES // row_size, 1)
    for start in range(0, num_rows, length):
        yield start, min(start + length, num_rows)
