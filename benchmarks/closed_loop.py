"""A closed-loop HTTP client in a process of its own: so many connections, each of which sends its
next request when the last one is answered.

    python -m benchmarks.closed_loop < SPEC.json      prints seconds of each request, as JSON

Requests are bytes made beforehand, and answers are read up to their declared length, so the client
takes little of the cores that it shares with the server.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import uvloop


@dataclass(frozen=True)
class Measured:
    """What a load found."""

    requests: int
    rps: float
    p50_ms: float
    p99_ms: float


def load(
    address: tuple[str, int], path: str, bodies: Sequence[str], clients: int, seconds: float
) -> Measured:
    """Requests in turn by `clients` connections for so long, after a warm-up of a tenth of it."""
    spec = {
        "address": address,
        "path": path,
        "bodies": list(bodies),
        "clients": clients,
        "seconds": seconds,
    }
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.closed_loop"],
        input=json.dumps(spec),
        capture_output=True,
        text=True,
        check=True,
    )
    taken_s = np.array(json.loads(done.stdout))
    p50_ms, p99_ms = (round(1000 * float(np.quantile(taken_s, q)), 3) for q in (0.5, 0.99))
    return Measured(len(taken_s), round(len(taken_s) / seconds, 1), p50_ms, p99_ms)


class _Client(asyncio.Protocol):
    """One connection."""

    def __init__(self, requests: Sequence[bytes], first: int, times: tuple[float, float]) -> None:
        self._requests, self._place = requests, first
        self._begin_s, self._end_s = times
        self._buffer = bytearray()
        self._wanted = 0
        self.taken_s: list[float] = []
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)
        self._send()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._wanted:
            head_end = self._buffer.find(b"\r\n\r\n")
            if head_end < 0:
                return
            head = bytes(self._buffer[:head_end]).lower()
            if not head.startswith(b"http/1.1 200"):
                self._end(RuntimeError(f"refused: {bytes(self._buffer[:300])!r}"))
                return
            length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
            self._wanted = head_end + 4 + int(length)
        if len(self._buffer) < self._wanted:
            return
        now_s = time.perf_counter()
        if self._sent_s >= self._begin_s:
            self.taken_s.append(now_s - self._sent_s)
        self._buffer.clear()
        self._wanted = 0
        if now_s < self._end_s:
            self._send()
        else:
            self._end(None)

    def connection_lost(self, error: Exception | None) -> None:
        self._end(error or RuntimeError("the server closed the connection"))

    def _send(self) -> None:
        self._place += 1
        self._sent_s = time.perf_counter()
        self._transport.write(self._requests[self._place % len(self._requests)])

    def _end(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_exception(error) if error else self.ended.set_result(None)
            self._transport.close()


async def _run(spec: Mapping[str, Any]) -> list[float]:
    host, port = spec["address"]
    requests = [
        f"{'POST' if body else 'GET'} {spec['path']} HTTP/1.1\r\nHost: {host}:{port}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
        for body in spec["bodies"]
    ]
    begin_s = time.perf_counter() + spec["seconds"] / 10
    times = begin_s, begin_s + spec["seconds"]
    loop = asyncio.get_running_loop()
    clients = []
    for number in range(spec["clients"]):
        first = number * len(requests) // spec["clients"]
        _, client = await loop.create_connection(
            lambda first=first: _Client(requests, first, times), host, port
        )
        clients.append(client)
    await asyncio.gather(*(client.ended for client in clients))
    return [seconds for client in clients for seconds in client.taken_s]


if __name__ == "__main__":
    print(json.dumps(uvloop.run(_run(json.load(sys.stdin)))))
