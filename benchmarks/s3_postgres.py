"""Point 5l: the whole run with its workspace on S3 and MLflow on PostgreSQL, killed twice.

An S3 server in this process and a PostgreSQL of its own; `mlflow server` keeps its tables in the
one and its files in the other. The first run gets a SIGKILL, with all that it started, while texts
are generated, the second while models are trained. Each run has an empty copy of the workspace, as
on another machine, so it knows no more than what lies on S3. The last must end with the finished
stages cached; the champion, fetched from MLflow, must score.
"""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import psutil
import pyarrow.dataset as ds
from pyarrow.fs import FileSelector, S3FileSystem

import lorecast
from benchmarks.harness import Outcome
from benchmarks.server import LORECAST
from lorecast.artifacts import MANIFEST
from lorecast.config import load_config
from lorecast.lifecycle.mlflow_registry import open_registry
from lorecast.lifecycle.registry import champion_of, fetch
from tests.free_port import free_port
from tests.mlflow_server import kill, start_mlflow
from tests.object_store import CREDENTIALS, object_store
from tests.postgresql import postgresql

BAR = (
    "on another machine each run goes on from what lies on S3: finished stages are cached, no "
    "stored text is asked for again, and the registered model scores"
)
_ROOT = Path(__file__).parents[1]
_BUCKET = "lorecast"
_WORKSPACE = f"{_BUCKET}/experiments/world"
_PARTS_BEFORE_THE_KILL = 2
_PATIENCE_S = 3600.0


def measure(overrides: Sequence[str] = ()) -> Outcome:
    """`overrides`: more words for the experiment."""
    with TemporaryDirectory(prefix="lorecast-s3-") as name, object_store(_BUCKET) as variables:
        folder, port = Path(name), free_port()
        folder.chmod(0o755)  # for the user who runs PostgreSQL
        storage = S3FileSystem(
            endpoint_override=variables["AWS_ENDPOINT_URL"],
            access_key=variables["AWS_ACCESS_KEY_ID"],
            secret_key=variables["AWS_SECRET_ACCESS_KEY"],
        )
        words = [
            str(_ROOT / "configs" / "world.yaml"),
            f"compute.workspace=s3://{_WORKSPACE}",
            f"registry.tracking_uri=http://127.0.0.1:{port}",
            "compute.engine_batch=32",
            "compute.checkpoint_s=0",
            *overrides,
        ]
        with postgresql(folder / "postgresql") as uri:
            server = start_mlflow(port, uri, f"s3://{_BUCKET}/mlflow", **variables)
            try:
                return _outcome(words, folder, storage, variables)
            finally:
                kill(server)


def _outcome(
    words: Sequence[str], folder: Path, storage: S3FileSystem, variables: Mapping[str, str]
) -> Outcome:
    def run(machine: str, until: Callable[[], bool] | None = None) -> dict[str, Any]:
        cache = folder / machine
        return _run([*words, f"compute.cache={cache}"], cache, variables, until)

    generating = run(
        "first", lambda: len(_names(storage, "knowledge", "part-")) >= _PARTS_BEFORE_THE_KILL
    )
    stored_keys = set(_keys(storage))
    training = run("second", lambda: bool(_names(storage, "train/.checkpoints", "")))
    last = run("third")
    keys = _keys(storage)
    [generated] = [
        json.loads(storage.open_input_file(f"{_WORKSPACE}/generate/{name}/{MANIFEST}").read())
        for name in _names(storage, "generate", "world-")
    ]
    facts = {
        "texts_stored_at_the_kill": len(stored_keys),
        "texts_stored": len(keys),
        "texts_stored_twice": len(keys) - len(set(keys)),
        "texts_reused": generated["facts"]["reused"],
        "checkpoints_left": _names(storage, "train/.checkpoints", ""),
        "runs": {"killed in generate": generating, "killed in train": training, "last": last},
        "scores": _scores(words, folder / "fetched") if last["code"] == 0 else [],
    }
    cached = [stage for stage, is_cached in last["stages"] if is_cached]
    passed = (
        generating["killed"]
        and training["killed"]
        and 0 < len(stored_keys) <= facts["texts_reused"] < len(keys)
        and not facts["texts_stored_twice"]
        and dict(training["stages"]) == {"prepare": True, "generate": False, "encode": False}
        and last["code"] == 0
        and cached[:3] == ["prepare", "generate", "encode"]
        and dict(last["stages"])["register"] is False
        and not facts["checkpoints_left"]
        and len(facts["scores"]) == 2
        and bool(np.isfinite(facts["scores"]).all())
        and not any(run["told_the_key"] for run in (generating, training, last))
    )
    return Outcome(
        figure=(
            f"killed after {len(stored_keys):,} of {len(keys):,} texts: "
            f"{facts['texts_reused']:,} reused, {facts['texts_stored_twice']} asked twice; killed "
            f"in training: the last run calls {', '.join(cached)} cached and ends with code "
            f"{last['code']}; the champion scores {len(facts['scores'])} of 2 rows"
        ),
        passed=passed,
        details=facts,
    )


def _run(
    words: Sequence[str],
    cache: Path,
    variables: Mapping[str, str],
    until: Callable[[], bool] | None,
) -> dict[str, Any]:
    """`lorecast run`, killed with all that it started as soon as `until` holds; `cache` goes."""
    log = cache.with_suffix(".log")
    started_s = time.monotonic()
    with log.open("w") as stream:
        process = subprocess.Popen(
            [LORECAST, "run", *words, "--json"],
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**os.environ, **variables},
            start_new_session=True,
        )
    try:
        killed = _wait(process, until)
    finally:
        left = (
            psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        )
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        psutil.wait_procs(left, timeout=120)
    shutil.rmtree(cache, ignore_errors=True)
    said = log.read_text(errors="replace")
    events = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    return {
        "code": process.returncode,
        "killed": killed,
        "seconds": round(time.monotonic() - started_s, 1),
        "stages": [(each["stage"], each["cached"]) for each in events if each["event"] == "stage"],
        "told_the_key": CREDENTIALS["AWS_SECRET_ACCESS_KEY"] in said,
        "said_last": said.replace(str(cache.parent), "FOLDER").strip().splitlines()[-1:],
    }


def _wait(process: subprocess.Popen[bytes], until: Callable[[], bool] | None) -> bool:
    """Until the process ends, or `until` holds: True."""
    if until is None:
        process.wait(_PATIENCE_S)
        return False
    deadline_s = time.monotonic() + _PATIENCE_S
    while process.poll() is None and time.monotonic() < deadline_s:
        if until():
            return True
        time.sleep(0.2)
    return False


def _names(storage: S3FileSystem, folder: str, beginning: str) -> list[str]:
    found = storage.get_file_info(FileSelector(f"{_WORKSPACE}/{folder}", allow_not_found=True))
    return [info.base_name for info in found if info.base_name.startswith(beginning)]


def _keys(storage: S3FileSystem) -> list[str]:
    """The keys of all answers on S3."""
    parts = [f"{_WORKSPACE}/knowledge/{name}" for name in _names(storage, "knowledge", "part-")]
    table = ds.dataset(parts, filesystem=storage).to_table(["key"])
    keys: list[str] = table["key"].to_pylist()
    return keys


def _scores(words: Sequence[str], folder: Path) -> list[float]:
    """The champion's scores of two rows, fetched from MLflow."""
    config = load_config(words[0], words[1:])
    bundle, _ = fetch(open_registry(config), champion_of(config), folder)
    scores = lorecast.load(bundle).score(["u0001", "u0001"], ["f0001", "f0002"])
    return [float(score) for score in scores]
