"""Point 1f: rows/s of the train job against a bare PyTorch loop, same model and tensors.

The job is `lorecast train`'s: a Ray Train worker reads the prepared dataset and trains an epoch;
its figure is what its artifact records. The bare loop runs in this process while no worker is
alive: tensors in memory, index batches, AdamW (fused), nothing else. They take turns.
"""

import os
import shutil
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812

from benchmarks.harness import Outcome
from lorecast.config import ExperimentConfig, load_config
from lorecast.data.dataset import Dataset
from lorecast.jobs import train
from lorecast.jobs.console import Console
from lorecast.jobs.pipeline import Pipeline
from lorecast.training.recipe import Recipe
from lorecast.training.splits import Splits
from lorecast.training.trainer import new_model

BAR = "rows/s of the train job (DIN, batch 1024, one thread) ≥ 0.9 × a bare PyTorch loop"
_ROOT = Path(__file__).parents[1]
_BAR_RATIO = 0.9
_REPEATS = 5


def measure() -> Outcome:
    torch.set_num_threads(1)
    data = Path(os.environ.get("LORECAST_TEST_DATA", _ROOT.parent / "shared" / "data"))
    config = load_config(
        _ROOT / "configs" / "ml-1m.yaml",
        [
            f"dataset.path={data / 'ml-1m'}",
            "training.strategies=[base]",
            "training.epochs=1",
            f"compute.workspace={_ROOT / 'workspace'}",
            "compute.threads=1",
        ],
    )
    dataset = Pipeline(config, Console()).dataset
    splits = Splits.load(dataset, None)
    turns = []
    for seed in range(_REPEATS):
        turn = {"job": _job(config, dataset, seed), "bare": _bare(config, dataset, splits, seed)}
        turns.append(turn | {"load_1min": os.getloadavg()[0]})
    ratios = [turn["job"] / turn["bare"] for turn in turns]
    return Outcome(
        figure=(
            f"{median(ratios):.2f} × a bare loop (median of {_REPEATS} turns; "
            f"{median(turn['job'] for turn in turns):,.0f} rows/s)"
        ),
        passed=median(ratios) >= _BAR_RATIO,
        details={"rows_per_second": turns, "ratios": ratios, "rows": len(splits.train)},
    )


def _job(config: ExperimentConfig, dataset: Dataset, seed: int) -> float:
    scratch = _ROOT / "workspace" / "training-speed"
    compute = config.compute.model_copy(update={"workspace": str(scratch)})
    try:
        made = train.run(
            config.model_copy(update={"compute": compute}), dataset, None, "base", seed, Console()
        )
        return float(made.facts["rows_per_second"])
    finally:
        shutil.rmtree(scratch)


def _bare(config: ExperimentConfig, dataset: Dataset, splits: Splits, seed: int) -> float:
    recipe = Recipe(model=config.model, training=config.training, strategy="base", seed=seed)
    model: Any = new_model(recipe, dataset, None)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
    rows, label = splits.train.rows, splits.train.label_B
    model.train()
    started_s = time.monotonic()
    for index in torch.randperm(len(label)).split(config.training.batch_size):
        loss = F.binary_cross_entropy_with_logits(model(rows.take(index)), label[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return len(label) / (time.monotonic() - started_s)
