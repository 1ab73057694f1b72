"""MovieLens-1M for measurements: where it lies, and the experiment on it."""

import os
from pathlib import Path

from lorecast.config import ExperimentConfig, load_config

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "ml-1m.yaml"


def data() -> Path:
    """The folder of the test data."""
    return Path(os.environ.get("LORECAST_TEST_DATA", ROOT.parent / "shared" / "data"))


def experiment(*overrides: str) -> ExperimentConfig:
    """configs/ml-1m.yaml in the benchmarks' workspace, one thread a process."""
    return load_config(
        CONFIG,
        [
            f"dataset.path={data() / 'ml-1m'}",
            f"compute.workspace={ROOT / 'workspace'}",
            "compute.threads=1",
            *overrides,
        ],
    )
