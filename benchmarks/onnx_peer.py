"""A click model as its peer serves it: in ONNX Runtime, behind FastAPI, pydantic and uvicorn."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx

import lorecast
from benchmarks import peers

_PEERS = Path(__file__).parent / "peers"
_START_S = 120.0


def export(bundle: Path, folder: Path) -> None:
    """Writes the graph of a bundle and what goes with it to `folder`, which is made.

    The model may read knowledge of items alone, and neither features of users nor a context.
    """
    core = str(Path(lorecast.__file__).parents[1])
    peers.run([str(_PEERS / "onnx_export.py"), str(bundle), str(folder)], path=core)


@contextmanager
def onnx_serving(folder: Path, workers: int) -> Iterator[tuple[str, int]]:
    """Runs uvicorn on a free loopback port; yields (host, port) once it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        host, port = probe.getsockname()
    environment: Mapping[str, str] = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {
        "OMP_NUM_THREADS": "1",
        "SCORER": str(folder),
    }
    words = ["-m", "uvicorn", "--app-dir", str(_PEERS), "serving_app:app"]
    words += ["--workers", str(workers), "--port", str(port), "--no-access-log"]
    server = subprocess.Popen(
        [os.environ[peers.PYTHON], *words, "--log-level", "warning"],
        env=environment,
        stdout=sys.stderr,
    )
    try:
        _wait(f"http://{host}:{port}/docs", server)
        yield host, port
    finally:
        server.terminate()
        server.wait(60)


def _wait(url: str, server: subprocess.Popen[bytes]) -> None:
    end_s = time.monotonic() + _START_S
    while time.monotonic() < end_s and server.poll() is None:
        try:
            httpx.get(url, timeout=5)
        except httpx.HTTPError:
            time.sleep(0.5)
        else:
            return
    raise SystemExit("the peer's server did not start")
