"""A bundle of prestored rows scores like one of vectors, without them."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from lorecast.config import KSERConfig, ModelConfig
from lorecast.data.dataset import Dataset
from lorecast.errors import ArtifactError
from lorecast.lifecycle import bundle as bundle_module
from lorecast.lifecycle.bundle import Bundle, write_bundle
from lorecast.lifecycle.scorer import Scorer
from tests.small_bundle import make_model, write_small_bundle, write_trained, write_vectors


@pytest.fixture
def workspace(tiny_dataset: Dataset) -> Path:
    return tiny_dataset.path.parents[1]


def write_prestored(workspace: Path, dataset: Dataset, *, knowledge: bool = True) -> Path:
    """The bundle of the model that `write_small_bundle` has, its knowledge prestored."""
    vectors = write_vectors(workspace, dataset) if knowledge else None
    trained = write_trained(workspace, make_model(dataset, vectors), dataset, vectors)
    folder = workspace / "prestored"
    write_bundle(folder, trained, dataset, vectors, prestore=True)
    return folder


@pytest.fixture
def prestored(workspace: Path, tiny_dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(bundle_module, "_BLOCK_ROWS", 7)
    return write_prestored(workspace, tiny_dataset)


@pytest.mark.invariant
def test_scores_are_those_of_the_vectors(
    workspace: Path, tiny_dataset: Dataset, prestored: Path, tmp_path: Path
) -> None:
    users = [f"u{n}" for n in range(1, 31)] * 41
    items = [f"i{n}" for n in range(1, 42) for _ in range(30)]  # i41 is unknown
    expected = Scorer.load(write_small_bundle(workspace, tiny_dataset)).score(users, items)
    moved = prestored.rename(tmp_path / "moved")
    shutil.rmtree(workspace)
    scored = Scorer.load(moved).score(users, items)
    np.testing.assert_allclose(scored, expected, rtol=0, atol=1e-5)
    assert np.ptp(scored) > 1e-3


def test_rows_replace_the_vectors(prestored: Path, tiny_dataset: Dataset) -> None:
    bundle = Bundle.open(prestored)
    found = {file.stem for file in prestored.glob("*.npy")}
    beside = {"item_mask", "user_mask", "user_history_end"}
    assert found == {"item_prestored", "user_prestored"} | beside
    for side in ("item", "user"):
        rows = np.load(prestored / f"{side}_prestored.npy")
        assert rows.shape == (bundle.num_rows(side), bundle.prestored[side])
        assert rows.any(axis=1).all()
    assert set(bundle.fingerprints) == {"model", "dataset", "vectors", "knowledge"}


@pytest.mark.invariant
def test_certainty_goes_along_in_either_form(
    workspace: Path, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    sure = ModelConfig(kser=KSERConfig(certainty=True))
    vectors = write_vectors(workspace, tiny_dataset)
    model = make_model(tiny_dataset, vectors, config=sure)
    trained = write_trained(workspace, model, tiny_dataset, vectors, sure)
    users, items = [f"u{n}" for n in range(1, 31)], [f"i{n}" for n in range(1, 31)]
    scores = []
    for prestore in (False, True):
        folder = tmp_path / f"prestored-{prestore}"
        write_bundle(folder, trained, tiny_dataset, vectors, prestore=prestore)
        scores.append(Scorer.load(folder).score(users, items))
        assert (folder / "item_certainty.npy").exists() != prestore
    np.testing.assert_allclose(scores[1], scores[0], rtol=0, atol=1e-5)
    path = tmp_path / "prestored-False" / "item_certainty.npy"
    np.save(path, np.zeros_like(np.load(path)))
    assert np.abs(Scorer.load(path.parent).score(users, items) - scores[0]).max() > 1e-4


def test_without_knowledge_there_is_nothing_to_prestore(
    workspace: Path, tiny_dataset: Dataset
) -> None:
    bare = write_prestored(workspace, tiny_dataset, knowledge=False)
    assert not Bundle.open(bare).prestored
    expected = Scorer.load(write_small_bundle(workspace, tiny_dataset, knowledge=False))
    np.testing.assert_array_equal(
        Scorer.load(bare).score(["u1"], ["i1"]), expected.score(["u1"], ["i1"])
    )


@pytest.mark.bad_input
def test_rows_of_another_shape(prestored: Path) -> None:
    path = prestored / "item_prestored.npy"
    np.save(path, np.load(path).T)
    with pytest.raises(ArtifactError, match=r"item_prestored\.npy has shape"):
        Scorer.load(prestored)


@pytest.mark.bad_input
def test_missing_rows(prestored: Path) -> None:
    (prestored / "user_prestored.npy").unlink()
    with pytest.raises(ArtifactError, match=r"user_prestored\.npy is missing"):
        Scorer.load(prestored)
