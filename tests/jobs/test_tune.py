"""`lorecast tune` on Ray Tune, on the tiny dataset."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from lorecast.artifacts import Artifact
from lorecast.config import Search, load_config, load_search
from lorecast.data.dataset import Dataset
from lorecast.errors import ConfigError, TrainingError
from lorecast.jobs import trials as running
from lorecast.jobs import tune
from lorecast.jobs.console import Console
from lorecast.jobs.pipeline import Pipeline
from lorecast.lifecycle.mlflow_registry import open_registry
from lorecast.training.search import best_of
from tests.tiny_dataset import write_tiny_dataset

pytestmark = pytest.mark.usefixtures("ray_cluster")
QUIET = Console(quiet=True)
HEADS = "model.kser.heads={choice: [4, 3]}"
"""Three do not divide the width, so such trials fail."""
RATE = "training.learning_rate={loguniform: [1e-3, 1e-1]}"
HIDDEN = "model.mlp_hidden={choice: [[16], [8, 4]]}"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_tiny_dataset(tmp_path_factory.mktemp("tune"), num_users=120)


@pytest.fixture(autouse=True)
def _prepared(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    prepared = property(lambda _: Artifact.open(dataset.path))
    monkeypatch.setattr(Pipeline, "_prepared", prepared)


def _search(workspace: Path, *overrides: str) -> Search:
    return load_search(
        [
            "name=tiny",
            f"compute.workspace={workspace}",
            "compute.threads=1",
            "compute.tune_trials=2",
            "model.embedding_dim=8",
            "training.strategies=[base]",
            "training.epochs=4",
            "training.batch_size=128",
            "tune.trials=4",
            "tune.grace=1",
            "tune.reduction=2",
            *overrides,
        ]
    )


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, dataset: Dataset) -> dict[str, Any]:
    """A whole search, and the workspace it was made in."""
    workspace = tmp_path_factory.mktemp("searched")
    search = _search(workspace, RATE, HIDDEN, HEADS, "tune.trials=6")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setattr(Pipeline, "_prepared", property(lambda _: Artifact.open(dataset.path)))
        artifact = tune.run(search, QUIET)
    return {"search": search, "artifact": artifact, "workspace": workspace}


def test_the_best_of_all_trials_is_trained_and_registered(searched: dict[str, Any]) -> None:
    from mlflow import MlflowClient

    search, artifact, workspace = (searched[key] for key in ("search", "artifact", "workspace"))
    trials = tune.read_trials(artifact)
    assert [trial.number for trial in trials] == [1, 2, 3, 4, 5, 6]
    assert all(1e-3 <= trial.values["training.learning_rate"] <= 1e-1 for trial in trials)
    assert all(trial.values["model.mlp_hidden"] in ([16], [8, 4]) for trial in trials)
    assert len({json.dumps(dict(trial.values)) for trial in trials}) == 6
    failed = [trial for trial in trials if trial.values["model.kser.heads"] == 3]
    assert [trial.ending == "failed" for trial in trials] == [trial in failed for trial in trials]
    assert 0 < len(failed) == artifact.facts["trials"]["failed"] < 6
    assert all("must be a multiple of" in (trial.error or "") for trial in failed)
    assert all(1 <= len(trial.valid_auc) <= 4 for trial in trials if trial not in failed)
    best = best_of(trials)
    assert best is not None
    assert artifact.facts["best"]["trial"] == best.number

    found = load_config(artifact.path / "best.yaml")
    assert found == search.experiment(best.values)
    (trained,) = (Artifact.open(path) for path in (workspace / "train").glob("tiny-*"))
    valid_auc = trained.facts["metrics"]["valid"]["auc"]
    assert valid_auc >= best.best_auc
    if best.ending == "finished":
        assert valid_auc == best.best_auc, "a trial is the training that it stands for"
    assert (artifact.path / "search.png").stat().st_size > 10_000
    assert not (artifact.path / "ray").exists()

    registry = open_registry(search.config)
    version = registry.resolve("lorecast-tiny", "challenger")
    client = MlflowClient(registry.tracking_uri)
    tags = client.get_model_version("lorecast-tiny", str(version.number)).tags
    assert tags["lorecast.search.id"] == artifact.fingerprint
    assert json.loads(tags["lorecast.search.best"]) == best.values
    experiment = client.get_experiment_by_name("lorecast")
    assert experiment is not None
    below = client.search_runs(
        [experiment.experiment_id], f"tags.mlflow.parentRunId = '{tags['lorecast.search.run']}'"
    )
    assert {run.info.run_name for run in below} == {f"trial {n}" for n in range(1, 7)}


def test_a_finished_search_is_cached(
    searched: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(running.cluster, "connect", lambda _: pytest.fail("Ray is not needed"))
    again = tune.run(searched["search"], Console(as_json=True))
    assert again.fingerprint == searched["artifact"].fingerprint
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    stages = {event["stage"]: event["cached"] for event in events if event["event"] == "stage"}
    assert stages["tune"]
    assert stages["train"]
    (result,) = (event for event in events if event["event"] == "result")
    assert result["trials"]["all"] == 6
    assert result["best"]["values"] == searched["artifact"].facts["best"]["values"]
    assert set(result["auc"]) == {"valid", "test"}


def test_an_interrupted_search_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search = _search(tmp_path, RATE, "compute.tune_trials=1", "tune.trials=3")
    told: list[tuple[str, int]] = []
    make = running.watch

    def watch(*arguments: Any) -> Any:
        watcher = make(*arguments)
        tell = watcher.on_trial_result

        def on_trial_result(*, trial: Any, result: Any, **info: Any) -> None:
            told.append((trial.trial_id, result["epoch"]))
            tell(trial=trial, result=result, **info)
            if len(told) == 5:  # the first of the second trial
                os.kill(os.getpid(), signal.SIGINT)

        watcher.on_trial_result = on_trial_result
        return watcher

    monkeypatch.setattr(running, "watch", watch)
    with pytest.raises(KeyboardInterrupt):
        tune.run(search, QUIET)
    before = list(told)
    assert not list(tmp_path.glob("tune/*/manifest.json"))
    artifact = tune.run(search, QUIET)
    trials = tune.read_trials(artifact)
    assert [trial.number for trial in trials] == [1, 2, 3]
    done_before = {name for name, _ in before[:-1]} - {before[-1][0]}
    assert done_before, "one trial was over"
    assert not done_before & {name for name, _ in told[len(before) :]}, "none is done again"


def test_a_search_without_any_result_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search = _search(tmp_path, "training.learning_rate={uniform: [1e30, 1e31]}", "tune.trials=1")
    with pytest.raises(TrainingError, match=r"all 1 trials failed; the last: the loss is nan"):
        tune.run(search, Console())
    told = " ".join(capsys.readouterr().out.split())
    assert "trial 1 failed: the loss is nan in epoch 1" in told
    assert not list(tmp_path.glob("tune/*/manifest.json"))
    assert not list(tmp_path.glob("tune/*/ray"))


@pytest.mark.bad_input
def test_a_backbone_of_each_trial_is_refused(tmp_path: Path) -> None:
    search = _search(tmp_path, RATE, "tune.strategy=extractor_only")
    with pytest.raises(ConfigError, match=r"training\.backbone_from"):
        tune.run(search, QUIET)
