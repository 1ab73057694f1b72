"""Stage tune: a search for the values that the experiment leaves open, by the validation AUC.

    workspace/tune/<name>-<fingerprint8>/trials.json    every trial: values, AUC by epoch, its end
                                         best.yaml      the experiment with the best values
                                         search.png     AUC by epoch, by trial, against each value
                                         registered     the version that came of it, where

The best model is then trained, measured on the test part, once, and registered like any other, the
search in its tags. An interrupted search goes on; a finished one is cached.
"""

import json
import shlex
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lorecast.artifacts import Artifact, StageSpec, build, find, write_json
from lorecast.config import ExperimentConfig, Search, Strategy, dump_config
from lorecast.errors import ConfigError
from lorecast.jobs import search_record
from lorecast.jobs.console import Console
from lorecast.jobs.pipeline import Pipeline
from lorecast.jobs.search_record import BEST, PICTURE, TRIALS
from lorecast.jobs.train import with_local_backbone
from lorecast.jobs.trials import TrialTask, forget_checkpoints, run_trials
from lorecast.lifecycle.mlflow_registry import open_registry
from lorecast.lifecycle.registry import ModelVersion
from lorecast.training.recipe import Recipe
from lorecast.training.search import Trial, as_override, best_of, lines

STAGE = "tune"
_SHOWN = 10
"""Lines of the table; trials.json has all."""


def run(search: Search, console: Console) -> Artifact:
    """The search, then the best model's training and registration; returns the search's artifact.

    Raises what its stages raise, and TrainingError if all trials fail.
    """
    config = search.config
    strategy = config.tune.strategy or config.training.strategies[-1]
    recipe = _recipe(config, strategy)
    if recipe.is_injected and not recipe.is_pretrained:
        raise ConfigError(
            "tune.strategy is 'extractor_only', whose backbone would be trained anew for every "
            "trial: name a trained one in training.backbone_from, or take another strategy"
        )
    registry = open_registry(config)
    registry.check()  # now, rather than after hours of work
    console.heading(f"lorecast tune · {config.name}")
    pipeline = Pipeline(config, console)
    artifact = _searched(search, pipeline, recipe)
    trials = read_trials(artifact)
    best = best_of(trials)
    assert best is not None, "a finished search has a result"
    console.table(f"the best of {len(trials)} trials", lines(trials, most=_SHOWN))

    found = pipeline.with_model(_best_experiment(search, best, strategy))
    (trained,) = found.train()
    registered = found.register()
    version = ModelVersion(
        model=registered.facts["model_name"],
        number=registered.facts["version"],
        run_id=registered.facts["run_id"],
    )
    search_record.log(registry, version, search, artifact, trials)
    words = shlex.join(f"{key}={as_override(value)}" for key, value in best.values.items())
    aucs = {split: trained.metric(split, "auc") for split in ("valid", "test")}
    console.result(
        f"{version}: AUC valid {aucs['valid']:.4f}, test {aucs['test']:.4f}\n{words}\n"
        f"{artifact.path / BEST} is the experiment with these values; {artifact.path / PICTURE} "
        "shows the search",
        search=artifact.fingerprint,
        path=str(artifact.path),
        trials=artifact.facts["trials"],
        best={"trial": best.number, "values": dict(best.values)},
        auc=aucs,
        model=version.model,
        version=version.number,
    )
    return artifact


def read_trials(artifact: Artifact) -> list[Trial]:
    """The trials of a finished search, in order."""
    texts = json.loads((artifact.path / TRIALS).read_text(encoding="utf-8"))
    return [Trial.from_dict(values) for values in texts]


def _searched(search: Search, pipeline: Pipeline, recipe: Recipe) -> Artifact:
    """The finished search."""
    from lorecast.encoding.vectors import VectorsTable

    config, console, dataset = search.config, pipeline.console, pipeline.dataset
    vectors = VectorsTable.open(pipeline.encode().path) if recipe.uses_knowledge else None
    local = with_local_backbone(config, recipe, dataset)
    given = {} if local is recipe else {"training.backbone_from": local.training.backbone_from}
    task = TrialTask(
        search=search,
        strategy=recipe.strategy,
        seed=recipe.seed,
        dataset=dataset.path.resolve(),
        vectors=vectors.path.resolve() if vectors else None,
        given=given,
    )
    encoded = Artifact.open(vectors.path) if vectors else None
    spec = _spec(search, local, dataset.fingerprint, encoded)
    workspace = config.compute.folder
    before_s, started_s = time.time(), time.monotonic()
    if find(workspace, spec) is None:
        with build(workspace, spec, resume=True) as draft:
            state = draft.path.resolve() / "ray"
            trials = run_trials(task, state, console)
            best = best_of(trials)
            assert best is not None, "run_trials raises if all trials fail"
            _write(draft.path, trials, search, best, recipe.strategy)
            draft.facts.update(_facts(trials, best))
            forget_checkpoints(task, [trial for trial in trials if trial is not best])
            shutil.rmtree(state)
    artifact = Artifact.open(spec.folder(workspace))
    pipeline.tell(STAGE, artifact, time.monotonic() - started_s, before_s, _summary)
    return artifact


def _spec(search: Search, recipe: Recipe, dataset: str, vectors: Artifact | None) -> StageSpec:
    identity = {
        **recipe.identity(),
        "spaces": {space.key: space.as_document() for space in search.spaces},
        "search": search.config.tune.identity(),
    }
    inputs = {"dataset": dataset}
    if vectors is not None:
        inputs["vectors"] = vectors.fingerprint
    if recipe.is_pretrained:
        from lorecast.lifecycle.pretrained import Pretrained

        inputs["base"] = Pretrained.open(Path(str(recipe.training.backbone_from))).fingerprint
    if recipe.is_transfer:
        inputs["extractor"] = Artifact.open(Path(str(recipe.model.extractor_from))).fingerprint
    return StageSpec(stage=STAGE, name=search.config.name, identity=identity, inputs=inputs)


def _recipe(config: ExperimentConfig, strategy: Strategy) -> Recipe:
    training = config.training
    return Recipe(model=config.model, training=training, strategy=strategy, seed=training.seeds[0])


def _best_experiment(search: Search, best: Trial, strategy: Strategy) -> ExperimentConfig:
    """The experiment that trains the best model alone."""
    only = {
        "training.strategies": [strategy],
        "training.seeds": [search.config.training.seeds[0]],
    }
    return search.experiment({**best.values, **only})


def _write(
    folder: Path, trials: Sequence[Trial], search: Search, best: Trial, strategy: Strategy
) -> None:
    from lorecast.training.search_plots import draw

    write_json(folder / TRIALS, [asdict(trial) for trial in trials])
    (folder / BEST).write_text(dump_config(search.experiment(best.values)), encoding="utf-8")
    title = f"{search.config.name}, {strategy}: {len(trials)} trials"
    draw(trials, search.spaces, folder / PICTURE, title)


def _facts(trials: Sequence[Trial], best: Trial) -> dict[str, Any]:
    count = {
        ending: sum(trial.ending == ending for trial in trials)
        for ending in ("finished", "stopped", "failed")
    }
    return {
        "trials": {"all": len(trials), **count},
        "epochs": sum(len(trial.valid_auc) for trial in trials),
        "best": {"trial": best.number, "values": dict(best.values), "valid_auc": best.best_auc},
    }


def _summary(artifact: Artifact) -> str:
    trials, best = artifact.facts["trials"], artifact.facts["best"]
    ended = ", ".join(f"{trials[ending]} {ending}" for ending in ("stopped", "failed"))
    return (
        f"{trials['all']} trials ({ended}), {artifact.facts['epochs']} epochs; best: trial "
        f"{best['trial']}, valid AUC {best['valid_auc']:.4f}"
    )
