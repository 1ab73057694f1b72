"""Trains a table of models: rows by seeds, all on the same prepared data, several at a time.

A row is an experiment by its overrides and a strategy. Validation chooses each model's epoch; test
scores are read once, from the artifacts, when the table is made. Finished models are cached.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lorecast.artifacts import Artifact
from lorecast.config import ExperimentConfig, Strategy, load_config
from lorecast.data.dataset import Dataset
from lorecast.encoding.vectors import VectorsTable
from lorecast.jobs import train
from lorecast.jobs.console import Console
from lorecast.jobs.pipeline import Pipeline
from lorecast.training.recipe import Recipe

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    name: str
    strategy: Strategy
    overrides: tuple[str, ...] = ()
    """Of `model` and `training` only."""


@dataclass(frozen=True)
class Grid:
    """Rows by seeds on one experiment's data."""

    config: Path
    common: tuple[str, ...]
    """Overrides of every row."""
    rows: tuple[Row, ...]
    seeds: tuple[int, ...]

    def run(self, processes: int = 2) -> dict[str, list[Artifact]]:
        """Every row's models in the order of the seeds; `processes` train side by side."""
        pipeline = Pipeline(self.experiment(), Console())
        dataset = pipeline.dataset
        uses_knowledge = any(row.strategy != "base" for row in self.rows)
        vectors = VectorsTable.open(pipeline.encode().path) if uses_knowledge else None
        places = {"dataset": str(dataset.path), "vectors": str(vectors.path) if vectors else None}
        # Rows of one seed stay together: what an extractor is trained for comes before it.
        shares = [self.seeds[part::processes] for part in range(processes)]
        running = [
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks.studies.grid"],
                stdin=subprocess.PIPE,
                text=True,
                cwd=ROOT,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
            for share in shares
            if share
        ]
        for process, share in zip(running, shares, strict=False):
            assert process.stdin
            process.stdin.write(json.dumps({"grid": self._to_dict(), "seeds": share, **places}))
            process.stdin.close()
        codes = [process.wait() for process in running]
        if any(codes):
            raise SystemExit("a part of the study failed; run it again to go on")
        found = self.train(dataset, vectors, self.seeds)
        return {
            row.name: found[place * len(self.seeds) : (place + 1) * len(self.seeds)]
            for place, row in enumerate(self.rows)
        }

    def train(
        self, dataset: Dataset, vectors: VectorsTable | None, seeds: Sequence[int]
    ) -> list[Artifact]:
        """The models of these seeds, row by row."""
        recipes = []
        for row in self.rows:
            config = self.experiment(*row.overrides)
            recipes += [
                Recipe(
                    model=config.model,
                    training=config.training,
                    strategy=row.strategy,
                    seed=seed,
                )
                for seed in seeds
            ]
        return train.run_recipes(self.experiment(), dataset, vectors, recipes, Console())

    def experiment(self, *overrides: str) -> ExperimentConfig:
        """The experiment of all rows, with further overrides."""
        place = [f"compute.workspace={ROOT / 'workspace'}", "compute.threads=1"]
        return load_config(self.config, [*place, *self.common, *overrides])

    def _to_dict(self) -> dict[str, object]:
        rows = [[row.name, row.strategy, row.overrides] for row in self.rows]
        return {"config": str(self.config), "common": self.common, "rows": rows}


def _work() -> None:
    task = json.load(sys.stdin)
    grid = Grid(
        Path(task["grid"]["config"]),
        tuple(task["grid"]["common"]),
        tuple(Row(name, strategy, tuple(own)) for name, strategy, own in task["grid"]["rows"]),
        tuple(task["seeds"]),
    )
    vectors = VectorsTable.open(Path(task["vectors"])) if task["vectors"] else None
    grid.train(Dataset.open(Path(task["dataset"])), vectors, grid.seeds)


if __name__ == "__main__":
    _work()
