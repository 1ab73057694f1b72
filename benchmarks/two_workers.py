"""Point 3i: two data-parallel training workers against one, one thread each.

DIN on MovieLens-1M through `lorecast train`'s job, batch 4096 over all workers, two epochs; the two
take turns. Rows/s are those the artifacts record: of training, all workers together.
"""

import os
import shutil
from pathlib import Path
from statistics import median

from benchmarks.harness import Outcome
from benchmarks.ml1m import experiment
from lorecast.data.dataset import Dataset
from lorecast.jobs import train
from lorecast.jobs.console import Console
from lorecast.jobs.pipeline import Pipeline

BAR = "two workers ≥ 1.8 × one worker's rows/s; test AUC within 0.003"
_BAR_RATIO = 1.8
_BAR_AUC = 0.003
_REPEATS = 3


def measure() -> Outcome:
    dataset = Pipeline(experiment(), Console()).dataset
    turns = []
    for seed in range(_REPEATS):
        one, two = (_train(dataset, workers, seed) for workers in (1, 2))
        turns.append({"one": one, "two": two, "load_1min": os.getloadavg()[0]})
    ratios = [turn["two"]["rows_per_second"] / turn["one"]["rows_per_second"] for turn in turns]
    apart = [abs(turn["two"]["auc"] - turn["one"]["auc"]) for turn in turns]
    return Outcome(
        figure=(
            f"{median(ratios):.2f} × one worker (median of {_REPEATS} turns; "
            f"{median(turn['two']['rows_per_second'] for turn in turns):,.0f} rows/s); test AUC "
            f"{max(apart):.4f} apart at most"
        ),
        passed=median(ratios) >= _BAR_RATIO and max(apart) <= _BAR_AUC,
        details={"turns": turns, "ratios": ratios},
    )


def _train(dataset: Dataset, workers: int, seed: int) -> dict[str, float]:
    config = experiment(
        "training.batch_size=4096", "training.epochs=2", f"compute.train_workers={workers}"
    )
    scratch = Path(config.compute.workspace) / "two-workers"
    compute = config.compute.model_copy(update={"workspace": str(scratch)})
    try:
        made = train.run(
            config.model_copy(update={"compute": compute}), dataset, None, "base", seed, Console()
        )
        return {
            "rows_per_second": made.facts["rows_per_second"],
            "auc": made.facts["metrics"]["test"]["auc"],
        }
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
