"""Point 5i: the MLflow server is killed while a model is served and while another is trained.

A real `mlflow server` registers a bare model of the embedded world, and `lorecast serve` answers
with it. A second `lorecast run` (another seed) is in its training when the server is killed.
Requests go on all the time; the run must end by itself, with its model kept and a sentence that
names the next command. When the server is back, that command must register what is there and train
nothing.
"""

import json
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx

from benchmarks.harness import Outcome
from benchmarks.server import LORECAST, serving
from lorecast.artifacts import MANIFEST
from tests.free_port import free_port
from tests.mlflow_server import kill, start_mlflow

BAR = (
    "no request fails; the run ends with code 8, its model kept; `lorecast register` does the rest"
)
_ROOT = Path(__file__).parents[1]
_REGISTRY_ERROR = 8
_BETWEEN_REQUESTS_S = 0.05
_PATIENCE_S = 900.0


def measure(overrides: Sequence[str] = ()) -> Outcome:
    """`overrides`: more words for the experiment."""
    with TemporaryDirectory(prefix="lorecast-mlflow-") as name:
        folder, port = Path(name), free_port()
        words = [
            str(_ROOT / "configs" / "world.yaml"),
            "training.strategies=[base]",
            f"compute.workspace={folder / 'workspace'}",
            f"registry.tracking_uri=http://127.0.0.1:{port}",
            *overrides,
        ]
        stores = f"sqlite:///{folder / 'server.db'}", str(folder / "artifacts")
        server = start_mlflow(port, *stores)
        try:
            subprocess.run([LORECAST, "run", *words], check=True, stdout=subprocess.DEVNULL)
            with (
                serving(*words) as (host, http_port),
                _Asking(f"http://{host}:{http_port}") as asked,
            ):
                lost = _lose(folder, server, [*words, "training.seeds=[1]"])
                asked_while_away = asked.count
                server = start_mlflow(port, *stores)
                again = _register([*words, "training.seeds=[1]"])
        finally:
            kill(server)
    passed = (
        not asked.failed
        and asked_while_away > 100
        and lost["killed_while_training"]
        and lost["code"] == _REGISTRY_ERROR
        and lost["models_kept"] == 2
        and lost["names_the_command"]
        and not lost["traceback"]
        and again["code"] == 0
        and again["made"] == ["register"]
    )
    return Outcome(
        figure=(
            f"{len(asked.failed)} of {asked.count} requests failed; the run ended with code "
            f"{lost['code']} {lost['seconds_to_end']:.0f} s after the loss, "
            f"{lost['models_kept']} of 2 models kept; `lorecast register` then made "
            f"{', '.join(again['made'])} in {again['seconds']:.0f} s"
        ),
        passed=passed,
        details={
            "requests": asked.count,
            "requests_before_mlflow_was_back": asked_while_away,
            "failed_requests": asked.failed[:10],
            "run": lost,
            "register": again,
        },
    )


class _Asking:
    """A client that goes on asking in a thread."""

    def __init__(self, url: str) -> None:
        self.count = 0
        self.failed: list[str] = []
        self._url = url
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> "_Asking":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _ask(self) -> None:
        body = {"user_id": "u0001", "k": 5}
        with httpx.Client(base_url=self._url, timeout=30) as client:
            while not self._over.wait(_BETWEEN_REQUESTS_S):
                self.count += 1
                try:
                    answer = client.post("/v1/rank", json=body)
                except httpx.HTTPError as error:
                    self.failed.append(repr(error))
                    continue
                if answer.status_code != 200:
                    self.failed.append(f"{answer.status_code} {answer.text[:200]}")


def _lose(folder: Path, server: subprocess.Popen[bytes], words: Sequence[str]) -> dict[str, Any]:
    """Runs the experiment and kills the server once its training has begun."""
    trained = folder / "workspace" / "train"
    running = subprocess.Popen(
        [LORECAST, "run", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    deadline = time.monotonic() + _PATIENCE_S
    while len(list(trained.glob("world-*"))) < 2:
        if running.poll() is not None or time.monotonic() > deadline:
            running.send_signal(signal.SIGTERM)
            raise SystemExit(f"the training did not begin: {running.communicate()[0][-2000:]}")
        time.sleep(0.05)
    was_done = len(list(trained.glob(f"*/{MANIFEST}"))) == 2
    kill(server)
    lost_s = time.monotonic()
    said, _ = running.communicate(timeout=_PATIENCE_S)
    return {
        "code": running.returncode,
        "seconds_to_end": round(time.monotonic() - lost_s, 1),
        "killed_while_training": not was_done,
        "models_kept": len(list(trained.glob(f"*/{MANIFEST}"))),
        "names_the_command": "lorecast register" in said,
        "traceback": "Traceback" in said,
        "said_last": said.replace(str(folder), "FOLDER").strip().splitlines()[-1],
    }


def _register(words: Sequence[str]) -> dict[str, Any]:
    """`lorecast register`, and which stages it made rather than found."""
    started_s = time.monotonic()
    done = subprocess.run(
        [LORECAST, "register", *words, "--json"], capture_output=True, text=True, check=False
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    stages = [line for line in lines if line["event"] == "stage"]
    return {
        "code": done.returncode,
        "seconds": round(time.monotonic() - started_s, 1),
        "made": [line["stage"] for line in stages if not line["cached"]],
        "summary": stages[-1]["summary"] if stages else done.stderr[-500:],
    }
