"""A search in MLflow: its run, one below it for each trial, and tags at the version it led to."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from lorecast.artifacts import Artifact, write_json
from lorecast.config import Search, Space
from lorecast.lifecycle.registry import ModelVersion, Registry, RunRecord
from lorecast.training.search import Trial, as_override, show

TRIALS, BEST, PICTURE = "trials.json", "best.yaml", "search.png"
"""Files of a search."""
_MARKER = "registered"
"""Beside them: the version that has all this, and where."""
_TAG = "lorecast.search"


def log(
    registry: Registry,
    version: ModelVersion,
    search: Search,
    artifact: Artifact,
    trials: Sequence[Trial],
) -> None:
    """The search in MLflow, its trials nested below it, and in the version's tags; once a version.

    Raises RegistryError; the search stays, and the command goes on when it is run again.
    """
    marker = artifact.path / _MARKER
    told = {"tracking_uri": registry.uri, "version": str(version)}
    if marker.exists() and json.loads(marker.read_text(encoding="utf-8")) == told:
        return
    about = {f"{_TAG}.id": artifact.fingerprint}
    run_id = registry.log(_search_run(search, artifact, about))
    for trial in trials:
        registry.log(_trial_run(trial, about, run_id))
    best = artifact.facts["best"]
    tags = {
        **about,
        f"{_TAG}.run": run_id,
        f"{_TAG}.trials": json.dumps(artifact.facts["trials"]),
        f"{_TAG}.best": json.dumps(best["values"]),
        f"{_TAG}.valid_auc": f"{best['valid_auc']:.6f}",
    }
    with TemporaryDirectory(prefix="lorecast-search-") as name:
        for file in (TRIALS, BEST, PICTURE):
            shutil.copy(artifact.path / file, name)
        registry.annotate(version, tags, Path(name), "search")
    write_json(marker, told)


def _search_run(search: Search, artifact: Artifact, tags: Mapping[str, str]) -> RunRecord:
    best = artifact.facts["best"]
    return RunRecord(
        name=f"tune {artifact.path.name}",
        params={
            **{space.key: _space_text(space) for space in search.spaces},
            **{f"tune.{k}": str(v) for k, v in search.config.tune.identity().items()},
        },
        metrics={
            "best_valid_auc": best["valid_auc"],
            "best_trial": float(best["trial"]),
            "epochs": float(artifact.facts["epochs"]),
            "seconds": float(artifact.manifest["seconds"]),
            **{f"trials_{name}": float(n) for name, n in artifact.facts["trials"].items()},
        },
        curves=(),
        tags={"stage": "tune", **tags},
        plots=[artifact.path / PICTURE],
    )


def _trial_run(trial: Trial, tags: Mapping[str, str], parent: str) -> RunRecord:
    figures = {"best_valid_auc": trial.best_auc} if trial.valid_auc else {}
    error = {"error": trial.error} if trial.error else {}
    return RunRecord(
        name=f"trial {trial.number}",
        params={key: as_override(value) for key, value in trial.values.items()},
        metrics={**figures, "epochs": float(len(trial.valid_auc))},
        curves=[{"valid_auc": auc} for auc in trial.valid_auc],
        tags={"stage": "trial", "ending": trial.ending, **error, **tags},
        plots=(),
        parent=parent,
    )


def _space_text(space: Space) -> str:
    return f"{space.kind} {show(list(space.values))}"
