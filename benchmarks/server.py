"""`lorecast serve` in a process of its own, for benchmarks that speak HTTP to it."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LORECAST = str(Path(sys.executable).with_name("lorecast"))


@contextmanager
def serving(*words: str) -> Iterator[tuple[str, int]]:
    """Runs `lorecast serve WORDS` on a free loopback port; yields (host, port) once it is ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        host, port = probe.getsockname()
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    server = subprocess.Popen(
        [LORECAST, "serve", *words, "--port", str(port)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        assert server.stdout is not None
        if not server.stdout.readline().startswith("serving "):
            raise SystemExit("the server did not start")
        yield host, port
        if server.poll() is not None:
            raise SystemExit("the server died")
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)
