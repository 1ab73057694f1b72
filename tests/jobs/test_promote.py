"""`lorecast promote`, `rollback` and `history` on trained models in MLflow."""

import json
from pathlib import Path

import pytest

from lorecast.artifacts import Artifact
from lorecast.config import ExperimentConfig, load_config
from lorecast.data.dataset import Dataset
from lorecast.errors import PromotionError, RegistryError
from lorecast.jobs import promote, register
from lorecast.jobs.console import Console
from lorecast.jobs.pipeline import Pipeline
from lorecast.lifecycle.mlflow_registry import open_registry
from tests.tiny_dataset import write_tiny_dataset
from tests.tiny_training import train_tiny

QUIET = Console(quiet=True)
MODEL = "lorecast-tiny"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_tiny_dataset(tmp_path_factory.mktemp("promote"), num_users=150)


@pytest.fixture(scope="module")
def config(dataset: Dataset) -> ExperimentConfig:
    """Version 1 has hardly learnt anything, version 2 has; the margins are those of few rows."""
    workspace = dataset.path.parents[1]
    patch = pytest.MonkeyPatch()
    patch.delenv("MLFLOW_TRACKING_URI", raising=False)
    limits = ["max_gain=0.5", "max_latency_ratio=50", "max_ece_loss=0.5", "resamples=200"]
    config = load_config(
        None,
        [
            "name=tiny",
            f"compute.workspace={workspace}",
            *(f"promotion.{limit}" for limit in limits),
        ],
    )
    for epochs in (1, 6):
        trained = train_tiny(workspace, dataset, epochs=epochs)
        register.run(config, trained, dataset, None, None, QUIET)
    patch.undo()
    return config


@pytest.fixture(autouse=True)
def _prepared(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    prepared = property(lambda _: Artifact.open(dataset.path))
    monkeypatch.setattr(Pipeline, "_prepared", prepared)


def test_the_better_takes_over_and_goes_back(
    config: ExperimentConfig, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    registry = open_registry(config)
    now = promote.promote(config, QUIET)
    assert (now.champion, now.previous) == (2, 1)
    assert registry.aliases(MODEL) == {"challenger": 2, "champion": 2, "previous": 1}

    client = MlflowClient(registry.tracking_uri)
    version = client.get_model_version(MODEL, "2")
    assert version.tags["lorecast.gate"] == "promote"
    assert version.tags["lorecast.gate.auc"].startswith("+0.")
    files = version.tags["lorecast.gate.files"]
    found = client.download_artifacts(version.run_id, files, str(tmp_path))
    evidence = json.loads((Path(found) / "evidence.json").read_text())
    assert evidence["decision"]["promote"]
    assert evidence["evidence"]["rows"]["fingerprint"] == version.tags["lorecast.gate.slice"]
    assert "lorecast-tiny/2 against lorecast-tiny/1" in (Path(found) / "evidence.md").read_text()

    with pytest.raises(PromotionError, match="champion already"):
        promote.promote(config, QUIET)
    with pytest.raises(PromotionError, match=r"version 2 stays: .*AUC -0\."):
        promote.promote(config, QUIET, version=1)
    assert client.get_model_version(MODEL, "1").tags["lorecast.gate"] == "keep"
    assert registry.aliases(MODEL)["champion"] == 2

    promote.rollback(config, QUIET, reason="complaints")
    assert registry.aliases(MODEL) == {"challenger": 2, "champion": 1}
    with pytest.raises(PromotionError, match="nothing to roll back to"):
        promote.rollback(config, QUIET)
    promote.promote(config, QUIET, force="we know better")

    promote.history(config, Console(as_json=True))
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    lines = events[0]["lines"]
    assert [line["what"] for line in lines] == [
        "first",
        "promoted",
        "refused",
        "rolled back",
        "forced",
    ]
    assert [line["version"] for line in lines] == ["1", "2", "1", "1", "2"]
    assert lines[3]["why"] == "complaints"
    assert events[-1]["champion"] == 2


@pytest.mark.bad_input
def test_what_is_not_there_is_named(config: ExperimentConfig, tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="no version 9; it has: 1, 2"):
        promote.promote(config, QUIET, version=9)
    elsewhere = load_config(None, [f"compute.workspace={tmp_path}"])
    with pytest.raises(RegistryError, match="no registry here yet"):
        promote.history(elsewhere, QUIET)
