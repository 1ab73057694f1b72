"""latency: what knowledge costs a request in each way of serving it.

    workspace/latency/<name>-<fingerprint8>/latency.json, latency.md, latency.svg

In this process, with one torch thread, one way after the other: HTTP comes on top. Measured anew at
every call.
"""

from dataclasses import asdict
from pathlib import Path

from lorecast.artifacts import StageSpec, build
from lorecast.config import ExperimentConfig
from lorecast.encoding.vectors import VectorsTable
from lorecast.errors import ConfigError
from lorecast.evaluation import latency
from lorecast.evaluation.latency import Latency
from lorecast.jobs.console import Console
from lorecast.jobs.evaluate import copy
from lorecast.jobs.pipeline import Pipeline
from lorecast.jobs.ways import LLM, Measurement, Trial

STAGE = "latency"


def run(config: ExperimentConfig, trial: Trial, console: Console, out: Path | None = None) -> Path:
    """Measures the experiment's best model with knowledge; returns the artifact's folder.

    Trains what is missing; `out` gets a copy of the files. Raises ConfigError for an experiment
    without knowledge that could be stored, and what its stages and `Measurement.run` raise.
    """
    if config.sella is not None:
        raise ConfigError(
            "the section sella: its model reads a prompt in every request, and none of that is "
            "prestored; `lorecast latency` is for click models with knowledge"
        )
    if all(strategy == "base" for strategy in config.training.strategies):
        raise ConfigError(
            "training.strategies has only base, which has no knowledge: add all_parameters or "
            "extractor_only"
        )
    pipeline = Pipeline(config, console)
    trained = pipeline.train()
    knowing = max(
        (model for model in trained if model.strategy != "base"),
        key=lambda model: model.metric("valid", "auc"),
    )
    bare = next((model for model in trained if model.strategy == "base"), None)
    measurement = Measurement(
        config=config,
        dataset=pipeline.dataset,
        knowledge=pipeline.generate(),
        vectors=VectorsTable.open(pipeline.encode().path),
        knowing=knowing,
        bare=bare,
        trial=trial,
        console=console,
    )
    models = [knowing] if bare is None else [knowing, bare]
    spec = StageSpec(
        stage=STAGE,
        name=config.name,
        identity={"layout": 1, **asdict(trial)},
        inputs={model.strategy: model.artifact.fingerprint for model in models},
    )
    with build(config.compute.folder, spec) as draft:
        found = measurement.run(draft.path)
        _write(found, draft.path)
    if out is not None:
        copy(draft.path, out)
    _tell(found, out or draft.path, console)
    return draft.path


def _write(found: Latency, folder: Path) -> None:
    latency.draw(found, folder / "latency.svg")
    (folder / "latency.json").write_text(found.model_dump_json(indent=1), encoding="utf-8")
    (folder / "latency.md").write_text(latency.markdown(found), encoding="utf-8")


def _tell(found: Latency, folder: Path, console: Console) -> None:
    console.heading(f"lorecast latency · {found.name}")
    console.table(f"one user's candidates, {found.model}", latency.lines(found))
    if found.online:
        console.table(f"{LLM}, by part", latency.parts(found.online))
        console.note(latency.agreement(found.online))
    for note in found.notes:
        console.note(note)
    console.result(
        f"latency: {folder / 'latency.md'}",
        latency=str(folder),
        **found.model_dump(mode="json"),
    )
