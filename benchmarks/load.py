"""An open-loop HTTP load in a process of its own: requests leave when due, answered or not.

    python -m benchmarks.load < SPEC.json       writes what became of every request

Arrivals are Poisson at a rate that may change from phase to phase. Latency counts from the moment a
request was due, so a server that stalls is charged for all that wait meanwhile. Clocks are the
machine's monotonic one, which other processes share.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from numpy.typing import NDArray

_TIMEOUT_S = 30.0
_START_S = 1.0
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Answers:
    """What became of the requests, in the order in which they were due; R of them."""

    due_s_R: Floats
    latency_s_R: Floats
    status_R: NDArray[np.int64]
    """0: no answer at all."""
    version_R: NDArray[np.str_]
    """As the answer names it; empty for a refusal."""
    score_R: Floats
    """Of the first candidate; NaN for a refusal."""
    retry_after_R: NDArray[np.bool_]
    body_R: NDArray[np.int64]
    """Which of the bodies it was."""

    def where(self, chosen_R: NDArray[np.bool_]) -> "Answers":
        return Answers(*(column[chosen_R] for column in vars(self).values()))

    @property
    def ok_R(self) -> NDArray[np.bool_]:
        return self.status_R == 200

    @property
    def end_s_R(self) -> Floats:
        return self.due_s_R + self.latency_s_R

    def p_ms(self, quantile: float) -> float:
        """Latency of the answers with status 200."""
        return 1000 * float(np.quantile(self.latency_s_R[self.ok_R], quantile))

    def __len__(self) -> int:
        return len(self.due_s_R)


class Load:
    """A load that runs; `phases` are (requests a second, seconds)."""

    def __init__(
        self,
        address: tuple[str, int],
        phases: Sequence[tuple[float, float]],
        bodies: Sequence[dict[str, Any]],
        scratch: Path,
    ) -> None:
        self._out = scratch / f"load-{time.monotonic_ns()}.npz"
        self.begin_s = time.monotonic() + _START_S
        """When the first phase begins."""
        spec = {
            "url": "http://{}:{}/v1/score".format(*address),
            "phases": list(phases),
            "bodies": [json.dumps(body) for body in bodies],
            "begin_s": self.begin_s,
            "out": str(self._out),
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.load"], stdin=subprocess.PIPE, text=True
        )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(spec))
        self._process.stdin.close()

    def answers(self) -> Answers:
        """Once all requests have ended."""
        if self._process.wait():
            raise SystemExit("the load generator failed")
        with np.load(self._out) as columns:
            return Answers(**columns)


def closed_loop(
    address: tuple[str, int], body: dict[str, Any], clients: int, seconds: float
) -> float:
    """Answers a second with so many clients, each of which waits for its answer: the capacity."""

    async def measure() -> float:
        url, data = "http://{}:{}/v1/score".format(*address), json.dumps(body)
        async with _session() as session:
            end_s = time.monotonic() + seconds

            async def client() -> int:
                num_ok = 0
                while time.monotonic() < end_s:
                    async with session.post(url, data=data) as response:
                        await response.read()
                        num_ok += response.status == 200
                return num_ok

            return sum(await asyncio.gather(*(client() for _ in range(clients)))) / seconds

    return asyncio.run(measure())


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(_TIMEOUT_S)
    )


async def _run(spec: dict[str, Any]) -> None:
    due_s_R = spec["begin_s"] + _arrivals(spec["phases"])
    R, bodies = len(due_s_R), spec["bodies"]
    body_R = np.arange(R) % len(bodies)
    latency_s_R, score_R = np.zeros(R), np.full(R, np.nan)
    status_R, retry_after_R = np.zeros(R, np.int64), np.zeros(R, np.bool_)
    version_R = [""] * R

    async def send(place: int) -> None:
        with suppress(aiohttp.ClientError, TimeoutError):
            async with session.post(spec["url"], data=bodies[body_R[place]]) as response:
                content = await response.read()
                status_R[place] = response.status
                retry_after_R[place] = "retry-after" in response.headers
                if response.status == 200:
                    answer = json.loads(content)
                    version_R[place] = answer["model_version"]
                    score_R[place] = answer["scores"][0]
        latency_s_R[place] = time.monotonic() - due_s_R[place]

    async with _session() as session, asyncio.TaskGroup() as tasks:
        for place in range(R):
            if (wait_s := due_s_R[place] - time.monotonic()) > 0:
                await asyncio.sleep(wait_s)
            tasks.create_task(send(place))
    np.savez(
        spec["out"],
        due_s_R=due_s_R,
        latency_s_R=latency_s_R,
        status_R=status_R,
        version_R=np.array(version_R),
        score_R=score_R,
        retry_after_R=retry_after_R,
        body_R=body_R,
    )


def _arrivals(phases: Sequence[tuple[float, float]]) -> Floats:
    """Seconds from the start at which requests are due."""
    rng, begin_s, parts = np.random.default_rng(0), 0.0, []
    for rate, seconds in phases:
        drawn = rng.uniform(begin_s, begin_s + seconds, rng.poisson(rate * seconds))
        parts.append(np.sort(drawn))
        begin_s += seconds
    return np.concatenate(parts)


if __name__ == "__main__":
    asyncio.run(_run(json.load(sys.stdin)))
