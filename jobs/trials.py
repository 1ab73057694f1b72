"""The trials of a search on Ray Tune: Optuna chooses their values, ASHA ends the hopeless ones.

A trial is one process that trains one model; click models are too small for more. All read the
same samples from Ray's object store, without a copy of their own. What decides is the validation
AUC; the test part is not scored here.

Two memories outlive an interruption. Ray Tune's own state, in a folder of the search, holds what
was chosen, how it went and where ASHA's rungs lie. A training's checkpoint, the same that `train`
would write for this model, holds its weights: the trial goes on from there, and so does the best
model's training after the search.
"""

import logging
import os
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorecast import remote
from lorecast.config import ComputeConfig, ExperimentConfig, Search, Space, Strategy
from lorecast.data.dataset import Dataset
from lorecast.encoding.vectors import VectorsTable
from lorecast.errors import TrainingError
from lorecast.jobs import cluster
from lorecast.jobs.console import Console
from lorecast.jobs.train import THREADS, base_folder, checkpoint_of, spec_of
from lorecast.jobs.trial_watch import values_of, watch
from lorecast.training.recipe import Recipe
from lorecast.training.search import Trial

_METRIC = "best_auc"
"""So far in a trial: it does not fall while the early stop waits."""
_ENVIRONMENT = {
    # Tune's own loggers and tables tell what the watcher keeps and shows.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}


@dataclass(frozen=True, kw_only=True)
class TrialTask:
    """What all trials of a search share but for the samples."""

    search: Search
    strategy: Strategy
    seed: int
    dataset: Path
    vectors: Path | None
    given: Mapping[str, Any]
    """Values of keys that are not searched, in place of the experiment's."""

    def experiment(self, values: Mapping[str, Any]) -> ExperimentConfig:
        """The experiment of one trial. Raises ConfigError if the values do not fit together."""
        return self.search.experiment({**self.given, **values})

    def recipe(self, config: ExperimentConfig) -> Recipe:
        return Recipe(
            model=config.model, training=config.training, strategy=self.strategy, seed=self.seed
        )

    def checkpoint(self, config: ExperimentConfig) -> Path:
        """Where the training of one trial keeps its checkpoint."""
        vectors = VectorsTable.open(self.vectors) if self.vectors else None
        recipe, dataset = self.recipe(config), Dataset.open(self.dataset)
        spec = spec_of(config.name, recipe, dataset, vectors)
        return checkpoint_of(config.compute.folder.resolve(), spec)


def run_trials(task: TrialTask, folder: Path, console: Console) -> list[Trial]:
    """All trials of the search, in order; what is done already is read from `folder`.

    Raises TrainingError if all fail, and KeyboardInterrupt if it was interrupted.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    config = task.search.config
    cluster.connect(config.compute)
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    _quieten()
    threads = config.compute.threads or THREADS
    resources = {"cpu": threads, "gpu": int(config.compute.train_gpus)}
    trainable = tune.with_parameters(_train, task=task, samples=_samples(task))
    is_begun = any(folder.glob("trials/experiment_state-*"))
    with console.progress("search", config.tune.trials) as shown, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Optuna, on epochs that a resumed trial tells again
        watcher = watch(task.search, shown, console)
        found = tune.run(
            tune.with_resources(trainable, resources),
            name="trials",
            storage_path=str(folder),
            config={space.key: _domain(space) for space in task.search.spaces},
            num_samples=config.tune.trials,
            metric=_METRIC,
            mode="max",
            search_alg=OptunaSearch(seed=config.tune.seed),
            scheduler=ASHAScheduler(
                time_attr="epoch",
                max_t=config.training.epochs,
                grace_period=config.tune.grace,
                reduction_factor=config.tune.reduction,
            ),
            max_concurrent_trials=_at_once(config.compute, threads),
            callbacks=[watcher],
            trial_dirname_creator=lambda trial: trial.trial_id,
            reuse_actors=True,
            raise_on_failed_trial=False,
            resume=True if is_begun else None,
            verbose=0,
        )
    if len(found.trials) < config.tune.trials or not all(t.is_finished() for t in found.trials):
        raise KeyboardInterrupt
    trials = sorted((watcher.trial(each) for each in found.trials), key=lambda trial: trial.number)
    if all(trial.ending == "failed" for trial in trials):
        shutil.rmtree(folder)  # so that the next run of the command tries again
        raise TrainingError(f"all {len(trials)} trials failed; the last: {trials[-1].error}")
    return trials


def forget_checkpoints(task: TrialTask, trials: Sequence[Trial]) -> None:
    """Removes what these trials left for others to go on from."""
    for trial in trials:
        if trial.valid_auc:
            remote.discard(task.checkpoint(task.experiment(trial.values)))


def _train(drawn: Mapping[str, Any], *, task: TrialTask, samples: Mapping[str, Any]) -> None:
    """One trial, in a process of its own."""
    import torch
    from ray import tune

    from lorecast.training.checkpoints import Checkpoints
    from lorecast.training.loop import Epoch, fit
    from lorecast.training.splits import Labelled
    from lorecast.training.trainer import new_model

    config = task.experiment(values_of(task.search.spaces, drawn))
    recipe = task.recipe(config)
    torch.set_num_threads(config.compute.threads or THREADS)
    device = torch.device("cuda" if config.compute.train_gpus else "cpu")
    dataset = Dataset.open(task.dataset)
    vectors = VectorsTable.open(task.vectors) if task.vectors else None
    base = base_folder(config, recipe, dataset)
    model = new_model(recipe, dataset, vectors, device, base)
    train, valid = (Labelled.from_arrays(samples[part]).to(device) for part in ("train", "valid"))
    checkpoints = Checkpoints(task.checkpoint(config), config.compute.checkpoint_s)
    told = {"epoch": 0, "valid_auc": 0.0, _METRIC: 0.0, "ended": False}

    def tell(epoch: Epoch) -> None:
        auc = epoch.valid.auc
        told.update({"epoch": epoch.epoch, "valid_auc": auc, _METRIC: max(told[_METRIC], auc)})
        tune.report(dict(told))

    for epoch in checkpoints.epochs():
        tell(Epoch.from_dict(epoch))
    fit(
        model,
        train,
        valid,
        recipe.training,
        seed=recipe.seed,
        keeps_start=recipe.is_injected,
        checkpoints=checkpoints,
        compiles=config.compute.train_compile,
        on_epoch=tell,
    )
    tune.report({**told, "ended": True})


def _samples(task: TrialTask) -> dict[str, Any]:
    """The parts that trials read, as arrays, checked as for any training."""
    from lorecast.training.splits import Splits

    dataset = Dataset.open(task.dataset)
    vectors = VectorsTable.open(task.vectors) if task.vectors else None
    if vectors is not None:
        vectors.check(dataset)
    splits = Splits.load(dataset, vectors)
    return {"train": splits.train.arrays(), "valid": splits.valid.arrays()}


def _at_once(compute: ComputeConfig, threads: int) -> int:
    return compute.tune_trials or max(1, len(os.sched_getaffinity(0)) // threads)


def _domain(space: Space) -> Any:
    """The space for Ray Tune; options are drawn by their place, for they may be lists."""
    from ray import tune

    low, high = space.values[0], space.values[-1]
    if space.kind == "choice":
        return tune.choice(list(range(len(space.values))))
    if space.kind == "int":
        return tune.randint(low, high + 1)
    return tune.uniform(low, high) if space.kind == "uniform" else tune.loguniform(low, high)


def _quieten() -> None:
    """What Ray Tune and Optuna tell about their own work stays out of the user's terminal."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
