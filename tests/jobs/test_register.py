"""A trained model is registered once, wherever the registry is."""

import json
import socket
from pathlib import Path

import pytest

from lorecast.artifacts import MANIFEST, Artifact
from lorecast.config import ExperimentConfig, load_config
from lorecast.data.dataset import Dataset
from lorecast.encoding.vectors import VectorsTable
from lorecast.errors import RegistryError
from lorecast.jobs import pipeline, register
from lorecast.jobs.console import Console
from lorecast.lifecycle.bundle import Bundle
from lorecast.lifecycle.mlflow_registry import open_registry
from lorecast.lifecycle.scorer import Scorer
from lorecast.serve.run import fetch
from tests.small_bundle import make_model, write_trained, write_vectors


@pytest.fixture(autouse=True)
def no_tracking_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def workspace(tiny_dataset: Dataset) -> Path:
    return tiny_dataset.path.parents[1]


@pytest.fixture
def vectors(workspace: Path, tiny_dataset: Dataset) -> VectorsTable:
    return write_vectors(workspace, tiny_dataset)


@pytest.fixture
def trained(workspace: Path, tiny_dataset: Dataset, vectors: VectorsTable) -> Artifact:
    model = make_model(tiny_dataset, vectors)
    return write_trained(workspace, model, tiny_dataset, vectors)


def _config(workspace: Path, *overrides: str) -> ExperimentConfig:
    return load_config(None, ["name=tiny", f"compute.workspace={workspace}", *overrides])


def test_registers_once_in_each_registry(
    workspace: Path, tiny_dataset: Dataset, vectors: VectorsTable, trained: Artifact
) -> None:
    config = _config(workspace)

    def run(config: ExperimentConfig = config) -> Artifact:
        return register.run(config, trained, tiny_dataset, vectors, None, Console(quiet=True))

    first = run()
    assert first.facts["model_name"] == "lorecast-tiny"
    assert first.facts["version"] == 1
    assert first.facts["aliases"] == ["challenger", "champion"]
    assert run().manifest == first.manifest

    folder, version = fetch(open_registry(config), "models:/lorecast-tiny@champion", workspace)
    assert version == "lorecast-tiny/1"
    bundle = Scorer.load(folder).bundle
    assert bundle.fingerprints["model"] == trained.fingerprint
    assert bundle.prestored

    # Another store stands for a deleted one: MLflow keeps the file of the first one open.
    store = f"registry.tracking_uri=sqlite:///{workspace / 'other.db'}"
    elsewhere = _config(workspace, store, "serving.prestore=false")
    other = run(elsewhere)
    assert other.facts["run_id"] != first.facts["run_id"]
    assert not Bundle.open(other.path / "bundle").prestored
    assert open_registry(elsewhere).aliases("lorecast-tiny") == {"challenger": 1, "champion": 1}
    assert run().facts["run_id"] == first.facts["run_id"]


@pytest.mark.bad_input
def test_unreachable_registry_keeps_the_model(
    workspace: Path, tiny_dataset: Dataset, vectors: VectorsTable, trained: Artifact
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}"
    config = _config(workspace, f"registry.tracking_uri={uri}")
    with pytest.raises(RegistryError, match="does not answer"):
        register.run(config, trained, tiny_dataset, vectors, None, Console(quiet=True))
    assert Artifact.open(trained.path).fingerprint == trained.fingerprint


@pytest.mark.bad_input
def test_a_model_that_the_test_part_chose_is_refused(
    workspace: Path, tiny_dataset: Dataset, vectors: VectorsTable, trained: Artifact
) -> None:
    manifest = json.loads((trained.path / MANIFEST).read_text())
    manifest["facts"]["protocol"] = "kar"
    (trained.path / MANIFEST).write_text(json.dumps(manifest))
    kar = Artifact.open(trained.path)
    with pytest.raises(RegistryError, match=r"training\.protocol is 'kar'"):
        register.run(_config(workspace), kar, tiny_dataset, vectors, None, Console(quiet=True))
    assert not (workspace / "register").exists()


@pytest.mark.bad_input
def test_a_run_that_could_not_register_is_refused_before_any_work(tmp_path: Path) -> None:
    config = _config(tmp_path, "training.protocol=kar")
    with pytest.raises(RegistryError, match=r"training\.protocol is 'kar'"):
        pipeline.run(config, Console(quiet=True))
    assert not list(tmp_path.iterdir())
