"""Point 5b: `lorecast tune` against training every one of its settings to the end.

KSER with DIN on the embedded world, five values to find, 20 trials, two cores. First the whole
command: search, training of the best, registration; its trials run two at a time, one thread each.
Then the same 20 settings one after another through `lorecast train`'s job, each with its full
schedule (early stop by validation, as ever) and with one or two threads, whichever is faster in one
epoch measured before, all in one worker group, so that none waits for a start. Dataset, texts and
vectors are there before. Ray runs before, too.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.harness import Outcome
from lorecast.artifacts import Artifact
from lorecast.config import ExperimentConfig, Search, load_config, load_search
from lorecast.data.dataset import Dataset
from lorecast.encoding.vectors import VectorsTable
from lorecast.jobs import cluster, train, tune
from lorecast.jobs.console import Console
from lorecast.jobs.pipeline import Pipeline
from lorecast.training.recipe import Recipe
from lorecast.training.search import Trial

BAR = (
    "20 trials ≤ 0.5 × the time of 20 sequential full trainings of the same settings; best "
    "validation AUC not lower by more than 0.001"
)
_ROOT = Path(__file__).parents[1]
_BAR_TIME, _BAR_AUC = 0.5, 0.001
_CORES = 2
_WORLD = _ROOT / "configs" / "world.yaml"
_MADE_BEFORE = ("prepare", "knowledge", "generate", "encode")
_SPACES = (
    "training.learning_rate={loguniform: [1e-4, 1e-2]}",
    "training.weight_decay={loguniform: [1e-5, 1e-1]}",
    "model.dropout={uniform: [0, 0.5]}",
    "model.mlp_hidden={choice: [[200, 80], [64, 32]]}",
    "model.kser.dim={choice: [16, 32]}",
)


def measure() -> Outcome:
    cores = sorted(os.sched_getaffinity(0))[:_CORES]
    os.sched_setaffinity(0, cores)
    return race(len(cores), "tune.trials=20")


def race(cores: int, *overrides: str) -> Outcome:
    """Both ways on so many cores; the overrides say how long a search is."""
    pipeline = Pipeline(
        load_config(_WORLD, [f"compute.workspace={_ROOT / 'workspace'}"]), Console()
    )
    encoded = pipeline.encode()
    dataset, vectors = pipeline.dataset, VectorsTable.open(encoded.path)
    with TemporaryDirectory(prefix="lorecast-search-") as name:
        scratch = Path(name)
        for stage in _MADE_BEFORE:
            (scratch / stage).symlink_to(_ROOT / "workspace" / stage)
        store = f"registry.tracking_uri=sqlite:///{scratch / 'mlflow.db'}"
        places = [f"compute.workspace={scratch}", "compute.threads=1", store]
        search = load_search(
            [str(_WORLD), *_SPACES, *places, f"compute.tune_trials={cores}", *overrides]
        )
        cluster.connect(search.config.compute)
        tuned = _tuned(search, scratch)
        recipes = [_recipe(search.experiment(trial.values)) for trial in tuned["trials"]]
        rows_per_s = {
            threads: _rows_per_second(
                _in(search.config, scratch / f"{threads}", threads), recipes[0], dataset, vectors
            )
            for threads in {1, cores}
        }
        threads = max(rows_per_s, key=rows_per_s.__getitem__)
        config = _in(search.config, scratch / "sequential", threads)
        full = _trained(config, tuned["trials"], recipes, dataset, vectors)
    best = max(full["models"], key=lambda model: model["valid"])
    ratio = tuned["seconds"] / full["seconds"]
    loss = best["valid"] - tuned["auc"]["valid"]
    trials: Sequence[Trial] = tuned.pop("trials")
    return Outcome(
        figure=(
            f"{ratio:.2f} × the time of {len(trials)} full trainings ({tuned['seconds']:.0f} s "
            f"against {full['seconds']:.0f} s); best validation AUC {tuned['auc']['valid']:.4f} "
            f"against {best['valid']:.4f}, test {tuned['auc']['test']:.4f} against "
            f"{best['test']:.4f}"
        ),
        passed=ratio <= _BAR_TIME and loss <= _BAR_AUC,
        details={
            "ratio": ratio,
            "lost_valid_auc": loss,
            "cores": cores,
            "tune": tuned,
            "sequential": {
                **full,
                "best": best,
                "threads": threads,
                "rows_per_second_by_threads": rows_per_s,
            },
        },
    )


def _tuned(search: Search, workspace: Path) -> dict[str, Any]:
    """The whole command."""
    load, started_s = os.getloadavg()[0], time.monotonic()
    artifact = tune.run(search, Console())
    seconds = time.monotonic() - started_s
    trials = tune.read_trials(artifact)
    (trained,) = (Artifact.open(folder) for folder in (workspace / train.STAGE).glob("world-*"))
    return {
        "seconds": seconds,
        "search_seconds": artifact.manifest["seconds"],
        "load_1min": load,
        "counts": artifact.facts["trials"],
        "epochs": artifact.facts["epochs"],
        "best": artifact.facts["best"],
        "auc": {split: trained.facts["metrics"][split]["auc"] for split in ("valid", "test")},
        "trials": trials,
    }


def _recipe(config: ExperimentConfig) -> Recipe:
    return Recipe(model=config.model, training=config.training, strategy="all_parameters", seed=0)


def _in(config: ExperimentConfig, workspace: Path, threads: int) -> ExperimentConfig:
    """The experiment in another workspace, with so many threads."""
    update = {"workspace": str(workspace), "threads": threads}
    return config.model_copy(update={"compute": config.compute.model_copy(update=update)})


def _rows_per_second(
    config: ExperimentConfig, recipe: Recipe, dataset: Dataset, vectors: VectorsTable
) -> float:
    """Of one epoch."""
    once = replace(recipe, training=recipe.training.model_copy(update={"epochs": 1}))
    (made,) = train.run_recipes(config, dataset, vectors, [once], Console(quiet=True))
    return float(made.facts["rows_per_second"])


def _trained(
    config: ExperimentConfig,
    trials: Sequence[Trial],
    recipes: Sequence[Recipe],
    dataset: Dataset,
    vectors: VectorsTable,
) -> dict[str, Any]:
    """Each trial's setting trained to the end, one after another."""
    load, started_s = os.getloadavg()[0], time.monotonic()
    made = train.run_recipes(config, dataset, vectors, recipes, Console())
    seconds = time.monotonic() - started_s
    models = [
        {
            "trial": trial.number,
            "ending_in_search": trial.ending,
            "epochs": artifact.facts["epochs"],
            "valid": artifact.facts["metrics"]["valid"]["auc"],
            "test": artifact.facts["metrics"]["test"]["auc"],
            "seconds": artifact.facts["seconds"],
        }
        for trial, artifact in zip(trials, made, strict=True)
    ]
    return {
        "seconds": seconds,
        "load_1min": load,
        "epochs": sum(model["epochs"] for model in models),
        "models": models,
    }
