"""Point 1d: DIN without knowledge on MovieLens-1M, users split 80/10/10, three seeds."""

import os
from pathlib import Path
from statistics import mean, stdev

from benchmarks.harness import Outcome
from lorecast.config import load_config
from lorecast.jobs.console import Console
from lorecast.jobs.pipeline import Pipeline

BAR = "mean test AUC of three seeds ≥ 0.780"
_ROOT = Path(__file__).parents[1]
_BAR_AUC = 0.780


def measure() -> Outcome:
    data = Path(os.environ.get("LORECAST_TEST_DATA", _ROOT.parent / "shared" / "data"))
    config = load_config(
        _ROOT / "configs" / "ml-1m.yaml",
        [
            f"dataset.path={data / 'ml-1m'}",
            "training.strategies=[base]",
            "training.seeds=[0,1,2]",
            f"compute.workspace={_ROOT / 'workspace'}",
            "compute.threads=1",
        ],
    )
    pipeline = Pipeline(config, Console())
    trained = pipeline.train()
    auc = [model.metric("test", "auc") for model in trained]
    return Outcome(
        figure=f"test AUC {mean(auc):.4f} ± {stdev(auc):.4f} (3 seeds)",
        passed=mean(auc) >= _BAR_AUC,
        details={
            "rows": pipeline.prepare().facts["rows"],
            "models": [{"seed": model.seed, **model.artifact.facts} for model in trained],
        },
    )
