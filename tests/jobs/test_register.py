"""A trained model is registered once, wherever the registry is."""

import json
import socket
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lorecast.artifacts import MANIFEST, Artifact, StageSpec, build
from lorecast.config import ExperimentConfig, load_config
from lorecast.data.dataset import Dataset
from lorecast.encoding.vectors import VectorsTable
from lorecast.errors import ConfigError, RegistryError
from lorecast.jobs import pipeline, register
from lorecast.jobs.console import Console
from lorecast.jobs.pipeline import Trained
from lorecast.lifecycle.bundle import Bundle
from lorecast.lifecycle.mlflow_registry import open_registry
from lorecast.lifecycle.registry import fetch
from lorecast.lifecycle.scorer import Scorer
from tests.sella.small_sella import write_sella
from tests.sella.tiny_llm import write_tiny_llm
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
    kept = rf"does not answer .* is in {trained.path}, and `lorecast register` with the same"
    with pytest.raises(RegistryError, match=kept):
        register.run(config, trained, tiny_dataset, vectors, None, Console(quiet=True))
    assert Artifact.open(trained.path).fingerprint == trained.fingerprint
    later = _config(workspace)
    made = register.run(later, trained, tiny_dataset, vectors, None, Console(quiet=True))
    assert made.facts["aliases"] == ["challenger", "champion"]


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


def test_a_language_model_is_registered_like_any_other(
    workspace: Path, tiny_dataset: Dataset
) -> None:
    import mlflow

    llm = write_tiny_llm(workspace / "llm")
    made = [
        Trained("base", 0, write_sella(workspace, tiny_dataset, llm, method, auc)[1])
        for method, auc in (("text", 0.58), ("sella", 0.62), ("collm", 0.61))
    ]
    config = _config(workspace, f"sella.model={llm}")
    own = pipeline.Pipeline(config, Console(quiet=True))
    vars(own)["_trained"] = (_scores_of_mf(workspace), *made)
    vars(own)["_prepared"] = Artifact.open(tiny_dataset.path)
    registered = own.register()
    assert registered.facts["aliases"] == ["challenger", "champion"]
    assert pipeline.Pipeline.register(own).manifest == registered.manifest

    registry = open_registry(config)
    folder, version = fetch(registry, "models:/lorecast-tiny@champion", workspace)
    scorer = Scorer.load(folder)
    assert (version, scorer.bundle.kind, scorer.bundle.strategy) == (
        "lorecast-tiny/1",
        "sella",
        "sella",
    )
    run = mlflow.MlflowClient(registry.tracking_uri).get_run(registered.facts["run_id"])
    assert run.data.metrics.items() >= {"valid_auc": 0.62, "test_uauc": 0.6, "checks": 1.0}.items()
    assert run.data.tags["fingerprint.model"] == scorer.bundle.fingerprints["model"]
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(registry.tracking_uri)
    try:
        model = mlflow.pyfunc.load_model("models:/lorecast-tiny/1")
    finally:
        mlflow.set_tracking_uri(before)
    rows = pd.DataFrame({"user_id": ["u1", "u2"], "item_id": ["i1", "i2"]})
    np.testing.assert_array_equal(model.predict(rows), scorer.score(["u1", "u2"], ["i1", "i2"]))


@pytest.mark.bad_input
def test_a_collaborative_model_alone_is_not_served(workspace: Path, tiny_dataset: Dataset) -> None:
    own = pipeline.Pipeline(_config(workspace, "sella={}"), Console(quiet=True))
    vars(own)["_trained"] = (_scores_of_mf(workspace),)
    with pytest.raises(ConfigError, match=r"sella\.methods: mf alone has no language model"):
        own.best()


def _scores_of_mf(workspace: Path) -> Trained:
    """The best by far on validation."""
    with build(workspace, StageSpec(stage="sella-score", name="tiny-mf-s0", identity={})) as draft:
        draft.facts.update(method="mf", metrics={"valid": {"auc": 0.9}})
    return Trained("base", 0, Artifact.open(draft.path))
