"""sella: a language model that recommends, stage by stage; see `sella_plans` for the stages.

What is missing is made, each method with each seed. Training runs under Ray Train as in `train`,
vectors and scores over Ray Data. The test part is read by the last stage alone.
"""

import time
from collections.abc import Iterable
from pathlib import Path

from lorecast.artifacts import Artifact, StageSpec
from lorecast.config import ExperimentConfig
from lorecast.config.sella import Method
from lorecast.errors import ConfigError
from lorecast.jobs.console import Console
from lorecast.jobs.pipeline import Pipeline, Trained
from lorecast.jobs.sella_plans import Plans
from lorecast.sella.methods import switches


def run(config: ExperimentConfig, console: Console) -> Path:
    """All stages of all methods and seeds, the best one's registration, then their evaluation;
    returns its folder."""
    from lorecast.jobs import evaluate
    from lorecast.jobs.arms import arms_of
    from lorecast.lifecycle.mlflow_registry import open_registry

    assert config.sella is not None
    open_registry(config).check()  # now, rather than after hours of work
    console.heading(f"lorecast run · {config.name}")
    arms = tuple(arms_of("", config, console))
    if any(switches(method).language_model for method in config.sella.methods):
        arms[0].pipeline.register()
    else:
        console.note("nothing is registered: no method of sella.methods has a language model")
    artifact = evaluate.evaluate(arms, console)
    evaluate.show(evaluate.read(artifact), console)
    console.result(f"evaluation: {artifact.path / 'evaluation.md'}", evaluation=str(artifact.path))
    return artifact.path


def train(pipeline: Pipeline) -> dict[Method, dict[int, Trained]]:
    """Every method of the experiment with every seed, its test part scored.

    Raises ConfigError, TrainingError, EngineError or ArtifactError.
    """
    from lorecast.jobs import sella_work as work

    config, console = pipeline.config, pipeline.console
    assert config.sella is not None
    plans = Plans(config, pipeline.dataset)
    models, seeds = plans.models, plans.vectors_seeds
    trainings = [plan for model in models for plan in plans.trainings(model)]

    def told(stage: str, specs: Iterable[StageSpec]) -> None:
        for spec in {spec.fingerprint: spec for spec in specs}.values():
            artifact = Artifact.open(spec.folder(plans.workspace))
            pipeline.tell(stage, artifact, artifact.manifest["seconds"], before_s, _summary)

    before_s = time.time()
    of_tune = [plan for plan in trainings if plan.stage.kind == "tune"]
    work.train(plans, of_tune, console)
    told("tune", (plan.spec for plan in of_tune))
    work.write_vectors(plans, seeds, console)
    told("vectors", map(plans.vectors, seeds))
    rest = [plan for plan in trainings if plan.stage.kind != "tune"]
    work.train(plans, rest, console)
    for kind in ("align", "guide"):
        told(kind, (plan.spec for plan in rest if plan.stage.kind == kind))
    work.score(plans, models, console)
    told("score", map(plans.score, models))
    return {
        method: {
            model.seed: Trained(
                "base", model.seed, Artifact.open(plans.score(model).folder(plans.workspace))
            )
            for model in models
            if model.method == method
        }
        for method in config.sella.methods
    }


def with_language_model(trained: Iterable[Trained]) -> tuple[Trained, ...]:
    """Those that a bundle can hold. Raises ConfigError if there is none."""
    found = tuple(t for t in trained if switches(t.artifact.facts["method"]).language_model)
    if not found:
        raise ConfigError("sella.methods: mf alone has no language model to serve; add another")
    return found


def _summary(artifact: Artifact) -> str:
    facts, name = artifact.facts, artifact.manifest["name"]
    if "dim" in facts:
        return f"{name}: {facts['with_title']:,} of {facts['items']:,} items, {facts['dim']} wide"
    measured = facts.get("metrics", {"valid": facts.get("valid")})
    told = "; ".join(
        f"{split} AUC {found['auc']:.4f}, UAUC {found['uauc']:.4f}"
        for split, found in measured.items()
    )
    return f"{name}: {told}; {facts['rows_per_second']:,.0f} rows/s"
