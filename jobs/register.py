"""Stage register: the trained model's bundle becomes a version in the registry.

    workspace/register/<name>-<fingerprint8>/bundle/    the very folder that was registered

The manifest says which version. If the registry does not know it (another one was configured, or
its database deleted) it is registered there: the artifact never speaks of a version that is not.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lorecast.artifacts import MANIFEST, Artifact, StageSpec, build, find
from lorecast.config import ExperimentConfig
from lorecast.data.dataset import Dataset
from lorecast.encoding.vectors import VectorsTable
from lorecast.errors import RegistryError
from lorecast.jobs.console import Console
from lorecast.lifecycle.bundle import write_bundle
from lorecast.lifecycle.card import CARD
from lorecast.lifecycle.history import enrol
from lorecast.lifecycle.mlflow_registry import MLflowRegistry, open_registry
from lorecast.lifecycle.registry import ModelVersion, RunRecord, check_protocol, model_name
from lorecast.lifecycle.sella_bundle import write_sella_bundle

_PLOTS = ("curves.png", "gates.png")
_FIGURES = ("best_epoch", "epochs", "seconds", "rows_per_second", "parameters")
_SELLA_FIGURES = (
    "best_check",
    "checks",
    "train_seconds",
    "rows_per_second",
    "trained_parameters",
)


def run(
    config: ExperimentConfig,
    trained: Artifact,
    dataset: Dataset,
    vectors: VectorsTable | None,
    knowledge: Artifact | None,
    console: Console,
) -> Artifact:
    """Registers `trained` once. Facts: model_name, version, run_id, aliases, tracking_uri.

    `aliases` are those that pointed at it then. Raises RegistryError, also for a model of protocol
    kar; the trained model stays.
    """
    check_protocol(trained.facts.get("protocol", "honest"))

    def make(bundle: Path) -> RunRecord:
        write_bundle(
            bundle,
            trained,
            dataset,
            vectors,
            prestore=config.serving.prestore,
            knowledge=knowledge.path if knowledge and config.serving.texts else None,
        )
        epochs = json.loads((trained.path / "curves.json").read_text(encoding="utf-8"))
        return _record(config, trained, bundle, _FIGURES, epochs, knowledge)

    return _registered(config, trained, make, console)


def run_sella(
    config: ExperimentConfig, scored: Artifact, dataset: Dataset, console: Console
) -> Artifact:
    """As `run`, for the model of a `sella` section whose scores these are."""
    trained = Artifact.open(config.compute.folder / scored.facts["model"])

    def make(bundle: Path) -> RunRecord:
        write_sella_bundle(bundle, trained, scored, dataset, most_mib=config.serving.llm_mib)
        checks = json.loads((trained.path / "curves.json").read_text(encoding="utf-8"))
        figures = trained.facts["valid"]
        named = [{f"valid_{k}" if k in figures else k: v for k, v in c.items()} for c in checks]
        return _record(config, trained, bundle, _SELLA_FIGURES, named, None)

    return _registered(config, scored, make, console)


def _registered(
    config: ExperimentConfig,
    trained: Artifact,
    make: Callable[[Path], RunRecord],
    console: Console,
) -> Artifact:
    """The artifact of the model's version; `make` writes its bundle to a folder."""
    registry, model = open_registry(config), model_name(config)
    spec = StageSpec(
        stage="register",
        name=config.name,
        identity={"model_name": model},
        inputs={"trained": trained.fingerprint},
    )
    workspace = config.compute.folder
    known = find(workspace, spec)
    if known is not None:
        with _kept(trained):
            is_there = _still_there(registry, known)
        if is_there:
            return known
        console.note(f"{registry.uri} does not have this model: registering it there")
        (known.path / MANIFEST).unlink()
    with build(workspace, spec) as draft:
        bundle = draft.path / "bundle"
        record = make(bundle)
        with _kept(trained):
            version = enrol(registry, model, bundle, record, spec.fingerprint)
        draft.facts.update(
            model_name=version.model,
            version=version.number,
            run_id=version.run_id,
            aliases=list(version.aliases),
            tracking_uri=registry.uri,
        )
    return Artifact.open(draft.path)


@contextmanager
def _kept(trained: Artifact) -> Iterator[None]:
    """A registry that fails inside costs nothing that was made before: its error says so."""
    try:
        yield
    except RegistryError as error:
        raise RegistryError(
            f"{error}. Nothing is lost: the trained model is in {trained.path}, and `lorecast "
            "register` with the same experiment registers it once MLflow answers"
        ) from None


def _still_there(registry: MLflowRegistry, artifact: Artifact) -> bool:
    facts = artifact.facts
    version = ModelVersion(
        model=facts["model_name"], number=facts["version"], run_id=facts["run_id"]
    )
    return registry.knows(version, artifact.fingerprint)


def _record(
    config: ExperimentConfig,
    trained: Artifact,
    bundle: Path,
    figures: Sequence[str],
    epochs: Sequence[Mapping[str, Any]],
    knowledge: Artifact | None,
) -> RunRecord:
    """`figures`: names among the facts of `trained`; `epochs`: metrics of each, in order."""
    card = json.loads((bundle / CARD).read_text(encoding="utf-8"))
    metrics = {name: float(v) for name, v in _flatten(card["metrics"], "_")}
    for name in figures:
        metrics[name] = float(trained.facts[name])
    if knowledge is not None:
        for name in ("prompt_tokens", "output_tokens"):
            metrics[f"knowledge_{name}"] = float(knowledge.facts[name])
    tags = {f"fingerprint.{name}": value for name, value in card["fingerprints"].items()}
    tags["kind"] = card["kind"]
    if commit := trained.manifest.get("git_commit"):
        tags["git_commit"] = commit
    return RunRecord(
        name=trained.path.name,
        params={
            key: value if isinstance(value, str) else json.dumps(value)
            for key, value in _flatten(config.identity(), ".")
        },
        metrics=metrics,
        curves=[{name: float(v) for name, v in _flatten(epoch, "_")} for epoch in epochs],
        tags=tags,
        plots=[trained.path / name for name in _PLOTS if (trained.path / name).exists()],
    )


def _flatten(values: Mapping[str, Any], separator: str) -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings, their keys joined."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            for name, leaf in _flatten(value, separator):
                yield f"{key}{separator}{name}", leaf
        else:
            yield key, value
