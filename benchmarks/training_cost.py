"""Point 3e: what a method costs to train: parameters, seconds an epoch, memory.

DIN on MovieLens-1M with the item texts of configs/ml-1m.yaml (17 texts an item), batch 1024, one
thread. Each model trains in a process of its own; methods take turns, three rounds. Memory is the
peak of the process beyond what it holds before training, samples and vectors included.
"""

import json
import os
import subprocess
import sys
from statistics import median
from typing import Any

from benchmarks.harness import Outcome
from benchmarks.ml1m import ROOT, experiment

BAR = "seconds an epoch: KSER, all parameters ≤ 1.5 × base; extractor only ≤ base"
_BAR_ALL, _BAR_ONLY = 1.5, 1.0
_ROUNDS = 3
_ROWS = 200 * 1024
_METHODS = {
    "base": ("base", ()),
    "HEIN": ("all_parameters", ("model.extractor=hein",)),
    "KSER, all parameters": ("all_parameters", ()),
    "KSER, extractor only": ("extractor_only", ()),
}


def measure() -> Outcome:
    from lorecast.jobs.console import Console
    from lorecast.jobs.pipeline import Pipeline

    pipeline = Pipeline(experiment(), Console())
    places = {"dataset": str(pipeline.dataset.path), "vectors": str(pipeline.encode().path)}
    rounds = [
        {name: _measured(name, places) for name in _METHODS} | {"load_1min": os.getloadavg()[0]}
        for _ in range(_ROUNDS)
    ]
    ratio = {
        name: median(turn[name]["epoch_s"] / turn["base"]["epoch_s"] for turn in rounds)
        for name in _METHODS
    }
    return Outcome(
        figure=(
            "seconds an epoch against base: "
            + ", ".join(f"{name} {ratio[name]:.2f} ×" for name in _METHODS if name != "base")
            + f" (base {median(turn['base']['epoch_s'] for turn in rounds):.1f} s)"
        ),
        passed=(
            ratio["KSER, all parameters"] <= _BAR_ALL and ratio["KSER, extractor only"] <= _BAR_ONLY
        ),
        details={"ratios": ratio, "rounds": rounds},
    )


def _measured(name: str, places: dict[str, str]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.training_cost"],
        input=json.dumps({"name": name, **places}),
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _work() -> None:
    import resource
    import tempfile
    from pathlib import Path

    import torch
    from safetensors.torch import save_file

    from lorecast.data.dataset import Dataset
    from lorecast.encoding.vectors import VectorsTable
    from lorecast.training.loop import fit
    from lorecast.training.recipe import Recipe
    from lorecast.training.splits import Labelled, Splits
    from lorecast.training.trainer import WEIGHTS, new_model

    task = json.load(sys.stdin)
    torch.set_num_threads(1)
    strategy, overrides = _METHODS[task["name"]]
    config = experiment("training.epochs=1", *overrides)
    dataset = Dataset.open(Path(task["dataset"]))
    vectors = VectorsTable.open(Path(task["vectors"]))
    splits = Splits.load(dataset, vectors)
    recipe = Recipe(model=config.model, training=config.training, strategy=strategy, seed=0)
    of_recipe = vectors if recipe.uses_knowledge else None
    with tempfile.TemporaryDirectory() as folder:
        base = None
        if recipe.is_injected:
            base = Path(folder)
            save_file(new_model(recipe.base, dataset, None).state_dict(), base / WEIGHTS)
        model = new_model(recipe, dataset, of_recipe, None, base)
    rows = torch.randperm(len(splits.train), generator=torch.Generator().manual_seed(0))[:_ROWS]
    train = Labelled(splits.train.rows.take(rows), splits.train.label_B[rows])
    few = Labelled(splits.valid.rows.slice(0, 1024), splits.valid.label_B[:1024])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    done = fit(model, train, few, config.training, seed=0)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        json.dumps(
            {
                "epoch_s": len(splits.train) / done.rows_per_second,
                "rows_per_second": done.rows_per_second,
                "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
                "peak_mib": round(after / 1024),
                "peak_beyond_data_mib": round((after - before) / 1024),
            }
        )
    )


if __name__ == "__main__":
    _work()
