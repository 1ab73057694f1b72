"""A real MLflow tracking server in processes of its own."""

import os
import signal
import subprocess
import sys
import time

import httpx

_PATIENCE_S = 900.0


def start_mlflow(port: int, store: str, files: str, **variables: str) -> subprocess.Popen[bytes]:
    """A server that answers on loopback, to be ended by `kill`.

    `store`: URI of its tables; `files`: where its artifacts lie; `variables`: of its environment.
    """
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
            *("--workers", "1", "--backend-store-uri", store, "--artifacts-destination", files),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **variables},
    )
    deadline_s = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline_s and server.poll() is None:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).status_code == 200:
                return server
        except httpx.HTTPError:
            time.sleep(0.5)
    kill(server)
    raise RuntimeError(f"mlflow server on {store} did not start")


def kill(server: subprocess.Popen[bytes]) -> None:
    """At once, with its workers: they share its process group."""
    if server.poll() is None:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait(30)
