"""Bundles that the races of serving and scoring share: MovieLens-1M, bare DIN and DIN with KSER.

One epoch each, since what is raced is arithmetic; cached in the benchmarks' workspace. The texts
are those of configs/ml-1m.yaml (17 of an item), and bundles are prestored, as `lorecast run` makes
them.
"""

from pathlib import Path

from benchmarks.ml1m import experiment
from lorecast.config import Strategy
from lorecast.encoding.vectors import VectorsTable
from lorecast.jobs.console import Console
from lorecast.jobs.pipeline import Pipeline
from lorecast.lifecycle.bundle import write_bundle


def bundles(folder: Path) -> dict[Strategy, Path]:
    """Writes both below `folder`; strategy to bundle."""
    config = experiment("training.strategies=[base,all_parameters]", "training.epochs=1")
    pipeline = Pipeline(config, Console())
    made: dict[Strategy, Path] = {}
    for trained in pipeline.train():
        is_bare = trained.strategy == "base"
        vectors = None if is_bare else VectorsTable.open(pipeline.encode().path)
        made[trained.strategy] = folder / trained.strategy
        place = made[trained.strategy]
        write_bundle(place, trained.artifact, pipeline.dataset, vectors, prestore=True)
    return made
