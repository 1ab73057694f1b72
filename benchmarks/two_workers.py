"""Point 3i: two data-parallel training workers against one, one thread each.

DIN on MovieLens-1M through `lorecast train`'s job, batch 4096 over all workers, two epochs; the two
take turns. Rows/s are those the artifacts record: of training, all workers together.

Beside them, what the machine allows: two trainings of one worker each at half the batch, at the
same time, in processes of their own that share nothing but cores, caches and memory.
"""

import json
import os
import shutil
import subprocess
import sys
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
        turn = {"one": one, "two": two, "apart": _apart(seed)}
        turns.append(turn | {"load_1min": os.getloadavg()[0]})
    ratios, ceilings = (
        [turn[who]["rows_per_second"] / turn["one"]["rows_per_second"] for turn in turns]
        for who in ("two", "apart")
    )
    apart = [abs(turn["two"]["auc"] - turn["one"]["auc"]) for turn in turns]
    return Outcome(
        figure=(
            f"{median(ratios):.2f} × one worker (median of {_REPEATS} turns; "
            f"{median(turn['two']['rows_per_second'] for turn in turns):,.0f} rows/s); two "
            f"trainings that share nothing {median(ceilings):.2f} ×; test AUC {max(apart):.4f} "
            "apart at most"
        ),
        passed=median(ratios) >= _BAR_RATIO and max(apart) <= _BAR_AUC,
        details={"turns": turns, "ratios": ratios, "ratios_of_separate_trainings": ceilings},
    )


def _apart(seed: int) -> dict[str, float]:
    """Rows/s of two processes that train at the same time, added up."""
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.two_workers", str(seed), str(number)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    said = [process.communicate()[0].splitlines()[-1] for process in running]
    return {"rows_per_second": sum(json.loads(line)["rows_per_second"] for line in said)}


def _train(
    dataset: Dataset, workers: int, seed: int, batch_size: int = 4096, place: str = "two-workers"
) -> dict[str, float]:
    config = experiment(
        f"training.batch_size={batch_size}",
        "training.epochs=2",
        f"compute.train_workers={workers}",
    )
    scratch = Path(config.compute.workspace) / place
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


if __name__ == "__main__":
    _seed, _number = sys.argv[1:]
    _dataset = Pipeline(experiment(), Console()).dataset
    print(json.dumps(_train(_dataset, 1, int(_seed), 2048, f"two-workers-{_number}")))
