"""Point 1c: the embedded world, DIN with KSER over bare DIN, same protocol, five seeds, paired."""

from math import sqrt
from pathlib import Path
from statistics import mean, stdev

from benchmarks.harness import Outcome
from lorecast.config import load_config
from lorecast.jobs.console import Console
from lorecast.jobs.pipeline import Pipeline

BAR = "test AUC of DIN+KSER minus DIN, mean of five paired seeds, ≥ 0.01"
_ROOT = Path(__file__).parents[1]
_BAR_DIFFERENCE = 0.01
_SEEDS = (0, 1, 2, 3, 4)
_T_95_OF_4 = 2.776
"""Two-sided 95 % quantile of Student's t with four degrees of freedom."""


def measure() -> Outcome:
    config = load_config(
        _ROOT / "configs" / "world.yaml",
        [
            f"training.seeds={list(_SEEDS)}",
            f"compute.workspace={_ROOT / 'workspace'}",
            "compute.threads=1",
        ],
    )
    trained = Pipeline(config, Console()).train()
    auc = {(model.strategy, model.seed): model.metric("test", "auc") for model in trained}
    differences = [auc["all_parameters", seed] - auc["base", seed] for seed in _SEEDS]
    half_width = _T_95_OF_4 * stdev(differences) / sqrt(len(_SEEDS))
    return Outcome(
        figure=f"test AUC {mean(differences):+.4f} ± {half_width:.4f} (95 % over 5 paired seeds)",
        passed=mean(differences) >= _BAR_DIFFERENCE,
        details={
            "differences": differences,
            "models": [dict(model.artifact.facts) for model in trained],
        },
    )
