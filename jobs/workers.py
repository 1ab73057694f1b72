"""A Ray Train worker group around a function; workers that die are replaced."""

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lorecast.config import ComputeConfig
from lorecast.errors import LorecastError, TrainingError
from lorecast.jobs.cluster import connect
from lorecast.jobs.console import Console
from lorecast.jobs.relay import Relay


def run_workers(
    work: Callable[[Mapping[str, Any]], None],
    task: Mapping[str, Any],
    compute: ComputeConfig,
    console: Console,
    *,
    name: str,
) -> None:
    """Runs `work(task)` in each of `compute.train_workers`; the task also holds a `mailbox`.

    Raises what a worker raised of our errors, and TrainingError for anything else.
    """
    # Without this, workers leave the driver's folder, and manifests miss its git commit.
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    connect(compute)
    from ray.train import RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    workspace = compute.folder.resolve()
    workspace.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".ray-train-", dir=workspace))
    resources = {"CPU": float(compute.threads or 1)}
    scaling = ScalingConfig(
        num_workers=compute.train_workers,
        use_gpu=compute.train_gpus,
        resources_per_worker=resources | ({"GPU": 1.0} if compute.train_gpus else {}),
    )
    retries = compute.train_retries
    try:
        while True:
            try:
                with Relay(console) as mailbox:
                    TorchTrainer(
                        work,
                        train_loop_config={**task, "mailbox": mailbox},
                        scaling_config=scaling,
                        run_config=RunConfig(name=name, storage_path=str(scratch)),
                    ).fit()
                return
            except TrainingFailedError as error:
                if retries == 0 or not _a_worker_died(error):
                    raise _ours(error) from error
                retries -= 1
                console.note("a training worker died: new ones go on from the last checkpoint")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _a_worker_died(error: Exception) -> bool:
    """Whether a process was lost, rather than the work refused; survivors then fail, too."""
    from ray.exceptions import RayError

    failures = getattr(error, "worker_failures", {}).values()
    return any(
        isinstance(failure, RayError) or type(failure).__module__.startswith("ray.train")
        for failure in failures
    )


def _ours(error: Exception) -> LorecastError:
    """The error a worker raised, or one that says that workers failed."""
    for failure in getattr(error, "worker_failures", {}).values():
        if isinstance(failure, LorecastError):
            return failure
    return TrainingError(f"a training worker failed: {' '.join(str(error).split())}")
