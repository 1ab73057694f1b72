"""Point 4g: SIGKILL of the training worker and of the driver in the middle of stage 3.

SeLLa on the embedded world, few rows, one method. The same experiment without a kill ends with the
same figures, to the last digit; the run after a killed driver calls the stages before `cached`.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from safetensors import safe_open

from benchmarks.harness import Outcome
from benchmarks.ml1m import ROOT
from benchmarks.studies.sella_rows import dataset_of, world
from lorecast.artifacts import MANIFEST

BAR = (
    "a killed worker and a killed driver resume stage 3 from its checkpoint: final figures equal; "
    "stages that were finished are `cached`"
)
_CONFIG = ROOT / "configs" / "world-sella.yaml"
_WORKER = "ray::RayTrainWorker"
_TIMEOUT_S = 900
_STAGE = "sella-guide"
_DONE = ("prepare", "tune", "vectors", "align")
_SPLIT = "dataset.split.test=0.1"
_OVERRIDES = (
    _SPLIT,
    "compute.threads=1",
    "compute.checkpoint_s=0",
    "training.seeds=[0]",
    "sella.methods=[sella]",
    "sella.valid_rows=500",
    "sella.align.epochs=3",
    "sella.tune.rows=1000",
    "sella.tune.checks=1",
    "sella.guide.rows=4000",
    "sella.guide.epochs=1",
    "sella.guide.batch_size=64",
    "sella.guide.checks=1",
)
_HALF = 30
"""Of stage 3's some 60 steps."""
_Process = subprocess.Popen[bytes]


def measure() -> Outcome:
    prepared = dataset_of(world(("sella",), _SPLIT)).path
    scratch = ROOT / "workspace" / "sella-kill"
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        runs = {}
        for name, kill in (("none", None), ("worker", _kill_worker), ("driver", _kill_driver)):
            workspace = scratch / name
            (workspace / "prepare").mkdir(parents=True)
            (workspace / "prepare" / prepared.name).symlink_to(prepared)
            runs[name] = _run(workspace, kill)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    killed = {name: run for name, run in runs.items() if name != "none"}
    same = {name: run["metrics"] == runs["none"]["metrics"] for name, run in killed.items()}
    cached = runs["driver"]["cached"]
    return Outcome(
        figure="; ".join(
            f"{name} killed at step {run['killed_at']} of stage 3: final figures "
            f"{'equal' if same[name] else 'DIFFER'}"
            for name, run in killed.items()
        )
        + f"; after the driver's end cached: {', '.join(cached)}",
        passed=all(same.values())
        and all(run["killed_at"] > 0 for run in killed.values())
        and set(cached) == set(_DONE),
        details=runs,
    )


def _run(workspace: Path, kill: Callable[[_Process, Path], _Process] | None) -> dict[str, Any]:
    """One experiment, killed once by `kill` soon after a checkpoint of stage 3."""
    process = _start(workspace)
    killed_at = None
    if kill is not None:
        killed_at = _wait_for_checkpoint(workspace, process)
        process = kill(process, workspace)
    if process.wait(timeout=_TIMEOUT_S):
        raise SystemExit((workspace / "log").read_text()[-4000:])
    [manifest] = workspace.glob(f"sella-score/*/{MANIFEST}")
    assert not list(workspace.glob("sella-*/.checkpoints/*")), "a finished training keeps none"
    return {
        "metrics": json.loads(manifest.read_text())["facts"]["metrics"],
        "killed_at": killed_at,
        "cached": [event["stage"] for event in _stages(workspace) if event["cached"]],
    }


def _start(workspace: Path) -> _Process:
    """What it says replaces what an earlier try said."""
    overrides = [f"compute.workspace={workspace}", *_OVERRIDES]
    lorecast = str(Path(sys.executable).with_name("lorecast"))
    with (workspace / "events").open("wb") as events, (workspace / "log").open("ab") as log:
        return subprocess.Popen(
            [lorecast, "train", str(_CONFIG), *overrides, "--json"],
            stdout=events,
            stderr=log,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )


def _wait_for_checkpoint(workspace: Path, process: _Process) -> int:
    """Waits for a checkpoint at half of stage 3; its step."""
    ends_s = time.monotonic() + _TIMEOUT_S
    while time.monotonic() < ends_s:
        if process.poll() is not None:
            raise SystemExit("the training ended before it was killed")
        for path in workspace.glob(f"{_STAGE}/.checkpoints/*.safetensors"):
            with safe_open(path, framework="pt") as file:
                step = int(json.loads(file.metadata()["state"])["step"])
            if step >= _HALF:
                return step
        time.sleep(0.05)
    raise SystemExit("stage 3 left no checkpoint")


def _kill_worker(process: _Process, _workspace: Path) -> _Process:
    [worker] = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if "".join(child.cmdline()[:1]).startswith(_WORKER)
    ]
    os.kill(worker.pid, signal.SIGKILL)
    return process


def _kill_driver(process: _Process, workspace: Path) -> _Process:
    left = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    psutil.wait_procs(left, timeout=60)
    return _start(workspace)


def _stages(workspace: Path) -> list[dict[str, Any]]:
    """Stages that the last try told of."""
    lines = (workspace / "events").read_text(errors="replace").splitlines()
    events = [json.loads(line) for line in lines if line.startswith("{")]
    return [event for event in events if event["event"] == "stage"]
