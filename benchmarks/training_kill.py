"""Point 3j: SIGKILL of the training worker and of the driver, each in the middle of an epoch.

DIN on MovieLens-1M, two epochs. The same training without a kill ends with the same figures, to the
last digit, and the resumed one repeats no more than what came after its last checkpoint.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
from safetensors import safe_open

from benchmarks.harness import Outcome
from benchmarks.ml1m import CONFIG, ROOT, data, experiment
from lorecast.artifacts import MANIFEST
from lorecast.jobs.console import Console
from lorecast.jobs.pipeline import Pipeline

BAR = "a killed worker and a killed driver resume from the last checkpoint; final metrics equal"
_WORKER = "ray::RayTrainWorker"
_TIMEOUT_S = 300


def measure() -> Outcome:
    prepared = Pipeline(experiment(), Console()).dataset.path
    scratch = ROOT / "workspace" / "training-kill"
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
    expected = runs["none"]["metrics"]
    same = {name: run["metrics"] == expected for name, run in runs.items() if name != "none"}
    resumed = all(runs[name]["at_kill"]["step"] > 0 for name in same)
    return Outcome(
        figure="; ".join(
            f"{name} killed in epoch {run['at_kill']['epoch']} after a checkpoint at step "
            f"{run['at_kill']['step']}: final metrics {'equal' if same[name] else 'DIFFER'}"
            for name, run in runs.items()
            if name != "none"
        ),
        passed=resumed and all(same.values()),
        details=runs,
    )


def _run(workspace: Path, kill: Any) -> dict[str, Any]:
    """One training, killed once by `kill` soon after a checkpoint inside an epoch."""
    process = _start(workspace)
    at_kill = None
    if kill is not None:
        at_kill = _wait_for_checkpoint(workspace, process)
        process = kill(process, workspace)
    if process.wait(timeout=_TIMEOUT_S):
        raise SystemExit((workspace / "log").read_text()[-4000:])
    [manifest] = workspace.glob(f"train/*/{MANIFEST}")
    assert not list(workspace.glob("train/.checkpoints/*")), "a finished training keeps none"
    return {
        "metrics": json.loads(manifest.read_text())["facts"]["metrics"],
        "at_kill": at_kill,
        "log": [line for line in _log(workspace) if "worker died" in line],
    }


def _start(workspace: Path) -> "subprocess.Popen[bytes]":
    overrides = [
        f"dataset.path={data() / 'ml-1m'}",
        f"compute.workspace={workspace}",
        "compute.threads=1",
        "compute.checkpoint_s=0",
        "training.strategies=[base]",
        "training.epochs=2",
    ]
    with (workspace / "log").open("ab") as log:
        return subprocess.Popen(
            [str(Path(sys.executable).with_name("lorecast")), "train", str(CONFIG), *overrides],
            stdout=log,
            stderr=log,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )


def _wait_for_checkpoint(workspace: Path, process: "subprocess.Popen[bytes]") -> dict[str, int]:
    """Waits for a checkpoint taken inside the second epoch."""
    ends_s = time.monotonic() + _TIMEOUT_S
    while time.monotonic() < ends_s:
        if process.poll() is not None:
            raise SystemExit("the training ended before it was killed")
        for path in workspace.glob("train/.checkpoints/*.safetensors"):
            with safe_open(path, framework="pt") as file:
                state = json.loads(file.metadata()["state"])
            if state["epoch"] == 2 and state["step"] > 0:
                return {"epoch": state["epoch"], "step": state["step"]}
        time.sleep(0.05)
    raise SystemExit("no checkpoint inside an epoch")


def _kill_worker(process: "subprocess.Popen[bytes]", _workspace: Path) -> "subprocess.Popen[bytes]":
    [worker] = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if "".join(child.cmdline()[:1]).startswith(_WORKER)
    ]
    os.kill(worker.pid, signal.SIGKILL)
    return process


def _kill_driver(process: "subprocess.Popen[bytes]", workspace: Path) -> "subprocess.Popen[bytes]":
    left = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    psutil.wait_procs(left, timeout=60)
    return _start(workspace)


def _log(workspace: Path) -> list[str]:
    return (workspace / "log").read_text(errors="replace").splitlines()
