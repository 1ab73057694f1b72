"""Two models of the embedded world in a registry of their own, for benchmarks of serving."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from lorecast.config import ExperimentConfig, Strategy, load_config
from lorecast.encoding.vectors import VectorsTable
from lorecast.jobs.console import Console
from lorecast.jobs.pipeline import Pipeline
from lorecast.lifecycle.bundle import write_bundle
from lorecast.lifecycle.history import Record, enrol, move, rollback
from lorecast.lifecycle.mlflow_registry import open_registry
from lorecast.lifecycle.registry import Registry, RunRecord, model_name
from lorecast.lifecycle.scorer import Scorer

_ROOT = Path(__file__).parents[1]
_SCORER = re.compile(r"^ray::\S*lorecast[#:]scorer")
_PROXY = re.compile(r"^ray::(SERVE_PROXY_ACTOR|ProxyActor)")
_MODELS: Sequence[tuple[Strategy, int]] = (("base", 0), ("all_parameters", 0))


@dataclass(frozen=True)
class ServedWorld:
    """The bare DIN as version 1, which is champion, and DIN with KSER as version 2."""

    experiment: Sequence[str]
    """Words for `lorecast serve`; its workspace and registry are this benchmark's alone."""
    bundles: Sequence[Path]

    @classmethod
    def made(cls, folder: Path, *overrides: str) -> "ServedWorld":
        """Trained in the project's workspace, or found there; registered below `folder`."""
        experiment = [
            str(_ROOT / "configs" / "world.yaml"),
            f"compute.workspace={folder / 'workspace'}",
            f"registry.tracking_uri=sqlite:///{folder / 'mlflow.db'}",
            *overrides,
        ]
        world = cls(experiment, [_bundle(folder, *model) for model in _MODELS])
        record = RunRecord(name="world", params={}, metrics={}, curves=[], tags={}, plots=[])
        for bundle in world.bundles:
            enrol(world.registry, world.model, bundle, record, bundle.name)
        return world

    @property
    def registry(self) -> Registry:
        return open_registry(self._config)

    @property
    def model(self) -> str:
        return model_name(self._config)

    @property
    def _config(self) -> ExperimentConfig:
        return load_config(Path(self.experiment[0]), self.experiment[1:])

    def promote(self, place: int) -> None:
        """Version 2 serves from now on; `place` tells promotions apart."""
        record = Record(action="forced", version=2, reason=f"promotion {place}")
        move(self.registry, record, self.model, 1)

    def rollback(self, place: int) -> None:
        """Version 1 serves again."""
        rollback(self.registry, self.model, f"rollback {place}")

    def bodies(self, candidates: int, count: int) -> list[dict[str, Any]]:
        """Requests: users in turn, each with candidates drawn at random."""
        card = Scorer.load(self.bundles[0]).bundle
        users, items = (card.entities(side)["id"].to_pylist() for side in ("user", "item"))
        rng = np.random.default_rng(0)
        return [
            {
                "user_id": users[place % len(users)],
                "item_ids": [items[i] for i in rng.integers(0, len(items), candidates)],
            }
            for place in range(count)
        ]

    def first_scores(self, bodies: Sequence[dict[str, Any]]) -> dict[str, NDArray[np.float32]]:
        """Version → score of each body's first candidate."""
        users = [body["user_id"] for body in bodies]
        items = [body["item_ids"][0] for body in bodies]
        return {
            f"{self.model}/{number}": Scorer.load(bundle).score(users, items)
            for number, bundle in enumerate(self.bundles, start=1)
        }


def endpoint() -> psutil.Process:
    """The process of `lorecast serve`, a child of this one."""
    children = psutil.Process().children()
    return next(child for child in children if "serve" in child.cmdline())


def replicas(server: psutil.Process) -> list[psutil.Process]:
    """The scorer processes of an endpoint, by start time."""
    found = [p for p in server.children(recursive=True) if _SCORER.search(_title(p))]
    return sorted(found, key=psutil.Process.create_time)


def resident_mib(server: psutil.Process) -> float:
    """Memory of the proxy and the scorers."""
    family = [p for p in server.children(recursive=True) if _PROXY.search(_title(p))]
    return sum(p.memory_info().rss for p in [*family, *replicas(server)]) / 2**20


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _bundle(folder: Path, strategy: Strategy, seed: int) -> Path:
    config = load_config(
        _ROOT / "configs" / "world.yaml",
        [
            f"training.strategies=[{strategy}]",
            f"training.seeds=[{seed}]",
            "encoding.components=64",
            f"compute.workspace={_ROOT / 'workspace'}",
            "compute.threads=1",
        ],
    )
    pipeline = Pipeline(config, Console())
    (trained,) = pipeline.train()
    vectors = None if strategy == "base" else VectorsTable.open(pipeline.encode().path)
    target = folder / f"{strategy}-{seed}"
    write_bundle(target, trained.artifact, pipeline.dataset, vectors, prestore=True)
    return target
