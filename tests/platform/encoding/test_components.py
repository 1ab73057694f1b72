"""Principal components of stored vectors, on arrays whose directions are known."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from lorecast.config import Side
from lorecast.encoding import components
from lorecast.encoding.components import COMPONENTS, keep_components
from lorecast.encoding.vectors import VectorsWriter

D = 24
VARIANCES = (4.0, 1.0, 0.25)
SIDES: tuple[tuple[Side, int, int], ...] = (("item", 120, 2), ("user", 90, 3))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Texts of both sides vary in three directions; far-off means tell their chunks apart."""
    rng = np.random.default_rng(5)
    direction_RD = np.linalg.qr(rng.standard_normal((D, len(VARIANCES))))[0].T
    for side, rows, chunks in SIDES:
        writer = VectorsWriter(tmp_path, side, rows, chunks, D)
        row_N, chunk_N = np.nonzero(rng.random((rows, chunks)) < 0.8)
        mean_CD = 3 * rng.standard_normal((chunks, D))
        latent_NR = rng.standard_normal((len(row_N), len(VARIANCES))) * np.sqrt(VARIANCES)
        vector_ND = mean_CD[chunk_N] + latent_NR @ direction_RD
        writer.put(row_N + 1, chunk_N, vector_ND.astype(np.float16))
        writer.close()
    return tmp_path


def centred(folder: Path, side: Side) -> NDArray[np.float64]:
    """The texts of a side, less their chunks' means."""
    vector_UCD = np.load(folder / f"{side}.npy").astype(np.float64)
    mask_UC = np.load(folder / f"{side}_mask.npy")
    return np.concatenate(
        [
            vector_UCD[mask_UC[:, c], c] - vector_UCD[mask_UC[:, c], c].mean(0)
            for c in range(mask_UC.shape[1])
        ]
    )


def test_texts_keep_their_distances_in_the_directions_in_which_they_vary(folder: Path) -> None:
    before = {side: centred(folder, side) for side, _, _ in SIDES}
    kept = keep_components(folder, ["item", "user"], 3)
    assert kept == pytest.approx(1, abs=1e-5), "a chunk's mean is no variance"
    for side, rows, chunks in SIDES:
        array = np.load(folder / f"{side}.npy")
        assert array.dtype == np.float16
        assert array.shape == (rows + 1, chunks, 3)
        assert not array[~np.load(folder / f"{side}_mask.npy")].any()
        after = centred(folder, side)
        np.testing.assert_allclose(after @ after.T, before[side] @ before[side].T, atol=0.15)


def test_the_share_that_stays_is_that_of_the_leading_directions(folder: Path) -> None:
    every = np.concatenate([centred(folder, side) for side, _, _ in SIDES])
    variance_D = np.linalg.svd(every, compute_uv=False) ** 2
    assert keep_components(folder, ["item", "user"], 1) == pytest.approx(
        variance_D[0] / variance_D.sum()
    )
    assert 0.6 < variance_D[0] / variance_D.sum() < 0.9


def test_a_stored_vector_is_the_encoders_times_the_basis(folder: Path) -> None:
    whole = np.load(folder / "item.npy").astype(np.float32)
    keep_components(folder, ["item", "user"], 2)
    basis_DR = np.load(folder / COMPONENTS)
    np.testing.assert_allclose(basis_DR.T @ basis_DR, np.eye(2), atol=1e-6)
    assert (basis_DR[np.abs(basis_DR).argmax(axis=0), [0, 1]] > 0).all(), "signs are settled"
    np.testing.assert_array_equal(
        np.load(folder / "item.npy"), (whole @ basis_DR).astype(np.float16)
    )


def test_neither_blocks_nor_a_second_run_change_anything(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    again, blocks = tmp_path_factory.mktemp("again"), tmp_path_factory.mktemp("blocks")
    for copy in (again, blocks):
        shutil.copytree(folder, copy, dirs_exist_ok=True)
    for copy in (folder, again):
        keep_components(copy, ["item", "user"], 3)
    monkeypatch.setattr(components, "_BLOCK_VALUES", 7 * D)
    keep_components(blocks, ["item", "user"], 3)
    for name in ("item.npy", "user.npy"):
        once = np.load(folder / name)
        np.testing.assert_array_equal(np.load(again / name), once)
        np.testing.assert_allclose(np.load(blocks / name), once, atol=0.01)


def test_a_sample_of_the_entities_finds_the_same_directions(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(components, "_SAMPLED_ROWS", 40)
    before = centred(folder, "item")
    assert keep_components(folder, ["item", "user"], 3) == pytest.approx(1, abs=1e-5)
    after = centred(folder, "item")
    assert np.square(after).sum() == pytest.approx(np.square(before).sum(), rel=1e-3)
