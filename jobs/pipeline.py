"""The main job: every stage of an experiment in order, each cached, then the report.

    prepare → generate → encode → train (strategy × seed) → register → report

A stage asks for what it needs, so `Pipeline(config, console).train()` runs what is missing before.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lorecast import remote
from lorecast.artifacts import MANIFEST, Artifact
from lorecast.config import ExperimentConfig, Strategy
from lorecast.data.dataset import Dataset
from lorecast.encoding.vectors import VectorsTable
from lorecast.jobs.console import Console
from lorecast.training.recipe import CHOSEN_ON_TEST

_COSTS = (
    "generated",
    "seconds",
    "paid_prompt_tokens",
    "paid_output_tokens",
    "engine_seconds",
    "engine_rows_per_second",
    "engine_tokens_per_second",
)
_COSTS_LOGGED = "costs.run"
"""Beside the knowledge: the MLflow run that holds its totals."""


@dataclass(frozen=True)
class Trained:
    """One trained model."""

    strategy: Strategy
    seed: int
    artifact: Artifact

    @property
    def label(self) -> str:
        return f"{self.strategy}, seed {self.seed}"

    def metric(self, split: str, name: str) -> float:
        return float(self.artifact.facts["metrics"][split][name])


class Pipeline:
    """The stages of one experiment; each runs once and remembers its artifact."""

    def __init__(self, config: ExperimentConfig, console: Console) -> None:
        self.config = config
        self.console = console
        self._retry_failed = False

    def prepare(self) -> Artifact:
        return self._prepared

    def generate(self, *, retry_failed: bool = False) -> Artifact:
        """Knowledge; `retry_failed` takes up what failed in a finished artifact."""
        self._retry_failed = retry_failed
        return self._generated

    def encode(self) -> Artifact:
        return self._encoded

    def train(self) -> tuple[Trained, ...]:
        return self._trained

    def register(self) -> Artifact:
        return self._registered

    def with_model(self, config: ExperimentConfig) -> "Pipeline":
        """The stages of an experiment that differs in its sections `model` and `training` alone:
        what is prepared, generated and encoded is taken over."""
        other = Pipeline(config, self.console)
        for stage in ("_prepared", "_generated", "_encoded"):
            if stage in self.__dict__:
                other.__dict__[stage] = self.__dict__[stage]
        return other

    @property
    def dataset(self) -> Dataset:
        return Dataset.open(self._prepared.path)

    def best(self) -> Trained:
        """The model with the highest validation AUC, of those that can be served; the test part
        has no say. Raises ConfigError if none can."""
        from lorecast.jobs import sella

        served = self._trained
        if self.config.sella is not None:
            served = sella.with_language_model(served)
        return max(served, key=lambda trained: trained.metric("valid", "auc"))

    @cached_property
    def _prepared(self) -> Artifact:
        from lorecast.jobs import prepare

        return self._timed("prepare", lambda: prepare.run(self.config, self.console), _prepared)

    @cached_property
    def _generated(self) -> Artifact:
        from lorecast.jobs import generate

        dataset = self.dataset
        return self._timed(
            "generate",
            lambda: self._with_costs_logged(
                generate.run(self.config, dataset, self.console, retry_failed=self._retry_failed)
            ),
            _generated,
        )

    def _with_costs_logged(self, knowledge: Artifact) -> Artifact:
        """Token and time totals to MLflow, once for every artifact that something was paid for."""
        from lorecast.errors import RegistryError
        from lorecast.lifecycle.mlflow_registry import open_registry
        from lorecast.lifecycle.registry import RunRecord

        logged = knowledge.path / _COSTS_LOGGED
        if remote.fetch(logged) or not knowledge.facts["generated"]:
            return knowledge
        record = RunRecord(
            name=f"generate {self.config.name}",
            params={"model": self.config.knowledge.llm.model},
            metrics={name: float(knowledge.facts[name]) for name in _COSTS},
            curves=(),
            tags={"stage": "generate", "knowledge": knowledge.fingerprint},
            plots=(),
        )
        try:
            logged.write_text(open_registry(self.config).log(record))
            remote.upload(logged)
        except RegistryError as error:
            self.console.note(f"token totals are not logged yet: {error}")
        return knowledge

    @cached_property
    def _encoded(self) -> Artifact:
        from lorecast.jobs import encode

        dataset, knowledge = self.dataset, self._generated
        return self._timed(
            "encode", lambda: encode.run(self.config, dataset, knowledge, self.console), _encoded
        )

    @cached_property
    def _trained(self) -> tuple[Trained, ...]:
        from lorecast.jobs import sella, train

        if self.config.sella is not None:
            methods = sella.train(self).values()
            return tuple(trained for of_method in methods for trained in of_method.values())

        training = self.config.training
        models = [(s, seed) for seed in training.seeds for s in training.strategies]
        dataset = self.dataset
        vectors = self._vectors(*training.strategies)
        before_s = time.time()
        artifacts = train.run_all(self.config, dataset, vectors, models, self.console)
        for artifact in artifacts:
            self.tell("train", artifact, artifact.manifest["seconds"], before_s, _trained)
        return tuple(
            Trained(strategy, seed, artifact)
            for (strategy, seed), artifact in zip(models, artifacts, strict=True)
        )

    def _vectors(self, *strategies: Strategy) -> VectorsTable | None:
        """The encoded knowledge, if one of these strategies uses it."""
        if all(strategy == "base" for strategy in strategies):
            return None
        return VectorsTable.open(self._encoded.path)

    @cached_property
    def _registered(self) -> Artifact:
        from lorecast.jobs import register

        best = self.best()
        if self.config.sella is not None:
            return self._timed(
                "register",
                lambda: register.run_sella(self.config, best.artifact, self.dataset, self.console),
                _registered,
            )
        vectors = self._vectors(best.strategy)
        knowledge = self._generated if vectors else None
        return self._timed(
            "register",
            lambda: register.run(
                self.config, best.artifact, self.dataset, vectors, knowledge, self.console
            ),
            _registered,
        )

    def _timed(
        self, stage: str, make: Callable[[], Artifact], summarise: Callable[[Artifact], str]
    ) -> Artifact:
        started_s, before_s = time.monotonic(), time.time()
        artifact = make()
        self.tell(stage, artifact, time.monotonic() - started_s, before_s, summarise)
        return artifact

    def tell(
        self,
        stage: str,
        artifact: Artifact,
        seconds: float,
        before_s: float,
        summarise: Callable[[Artifact], str],
    ) -> None:
        """Says that a stage ended; it was cached if its manifest is older than `before_s`."""
        cached = (artifact.path / MANIFEST).stat().st_mtime < before_s
        self.console.stage(
            stage, summarise(artifact), seconds=0.0 if cached else seconds, cached=cached
        )


def run(config: ExperimentConfig, console: Console, invocation: str = "") -> Path:
    """All stages, then the report; returns the report's folder.

    `invocation`: the words that named the experiment, for the lines the report tells to type.
    """
    from lorecast.jobs import report
    from lorecast.lifecycle.mlflow_registry import open_registry
    from lorecast.lifecycle.registry import check_protocol

    if config.sella is not None:
        from lorecast.jobs import sella

        return sella.run(config, console)
    # Both now, rather than after hours of work.
    check_protocol(config.training.protocol)
    open_registry(config).check()
    pipeline = Pipeline(config, console)
    console.heading(f"lorecast run · {config.name}")
    pipeline.register()
    return report.run(pipeline, invocation)


def _prepared(artifact: Artifact) -> str:
    facts = artifact.facts
    rows = " / ".join(f"{facts['rows'][split]:,}" for split in ("train", "valid", "test"))
    return f"{facts['users']:,} users, {facts['items']:,} items; samples {rows}"


def _generated(artifact: Artifact) -> str:
    facts = artifact.facts
    made = [f"{facts[key]:,} {key}" for key in ("generated", "reused", "imported") if facts[key]]
    return f"{', '.join(made) or 'no'} texts; {facts['output_tokens']:,} tokens written"


def _encoded(artifact: Artifact) -> str:
    facts = artifact.facts
    return f"{facts['texts']:,} texts to {facts['dim']} dimensions"


def _trained(artifact: Artifact) -> str:
    facts = artifact.facts
    valid, test = (f"{facts['metrics'][split]['auc']:.4f}" for split in ("valid", "test"))
    is_kar = facts.get("protocol") == "kar"
    auc = f"test {test} ({CHOSEN_ON_TEST})" if is_kar else f"valid {valid}, test {test}"
    return (
        f"{facts['strategy']}, seed {facts['seed']}: AUC {auc}; "
        f"{facts['epochs']} epochs, {facts['rows_per_second']:,.0f} rows/s"
    )


def _registered(artifact: Artifact) -> str:
    facts = artifact.facts
    return f"{facts['model_name']} version {facts['version']} ({', '.join(facts['aliases'])})"
