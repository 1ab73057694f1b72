"""Point 5d: `lorecast serve` against FastAPI, pydantic, uvicorn and ONNX Runtime: requests/s, p99.

DIN with prestored knowledge on MovieLens-1M, one user × 100 or 1,000 items in JSON, 1, 16 and 64
connections. Two scorer processes with one thread each on either side: two replicas behind Ray
Serve's fast HTTP path (HAProxy in front of replicas that answer HTTP themselves, see _FAST), two
uvicorn workers. The model is the same, exported (`peers/onnx_export.py`); answers must agree. Each
side is up alone, in turns; the client (`closed_loop`) shares the cores with either.

Where the time goes: p50 of an answer without body or model (`GET /healthz`, so HTTP, HAProxy and
Ray), then what the rest of a request takes in this process.
"""

import json
import os
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from pydantic_core import to_json

from benchmarks import peers
from benchmarks.closed_loop import load
from benchmarks.harness import Outcome
from benchmarks.onnx_peer import export, onnx_serving
from benchmarks.served import bundles
from benchmarks.server import serving
from lorecast.lifecycle.scorer import Scorer
from lorecast.serve.schema import ScoreRequest

BAR = (
    "× 100 items ≥ 0.5 × the peer's requests/s at no worse p99, × 1,000 items ≥ 0.9 ×; p50 with "
    "one connection ≤ 2.5 ms at 100 items"
)
_BAR_RATIO = {100: 0.5, 1000: 0.9}
_BAR_P50_MS = 2.5
_CLIENTS = (1, 16, 64)
_SECONDS = 30.0
_ROUNDS = 1
_PROCESSES = 2
_BODIES = 64
_FAST = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
}
"""The last: `lorecast serve` ends within its 10 s, and HAProxy with it; Ray would drain for 30."""
_SETTLED_S = 5.0
"""After the start: HAProxy is told of the last replica, and breaks off what it is doing."""
_SIDES = ("lorecast", "onnx")


def measure() -> Outcome:
    with tempfile.TemporaryDirectory(prefix="lorecast-race-") as folder:
        return race(bundles(Path(folder))["all_parameters"], Path(folder), _SECONDS, _ROUNDS)


def race(bundle: Path, folder: Path, seconds: float, rounds: int) -> Outcome:
    """Both sides on the bundle's model, in turns, with files below `folder`."""
    exported = folder / "onnx"
    export(bundle, exported)
    bodies = {items: random_bodies(bundle, items) for items in _BAR_RATIO}
    sides: dict[str, Callable[[], AbstractContextManager[tuple[str, int]]]] = {
        "lorecast": lambda: fast_serving(bundle, _PROCESSES),
        "onnx": lambda: onnx_serving(exported, _PROCESSES),
    }
    turns: list[dict[str, Any]] = []
    answers: dict[str, list[float]] = {}
    bare_ms: list[float] = []
    for _ in range(rounds):
        for side, start in sides.items():
            with start() as address:
                answers[side] = _scores(address, bodies[100][0])
                if side == "lorecast":
                    bare_ms.append(load(address, "/healthz", [""], 1, seconds / 5).p50_ms)
                turns += [
                    {"side": side, "items": items, "clients": clients}
                    | asdict(load(address, "/v1/score", bodies[items], clients, seconds))
                    | {"load_1min": os.getloadavg()[0]}
                    for items in bodies
                    for clients in _CLIENTS
                ]
    cells = {
        (side, items, clients): {
            key: median(turn[key] for turn in turns if _cell(turn) == (side, items, clients))
            for key in ("rps", "p50_ms", "p99_ms")
        }
        for side in _SIDES
        for items in bodies
        for clients in _CLIENTS
    }
    ratios = {
        (items, clients): cells["lorecast", items, clients]["rps"]
        / cells["onnx", items, clients]["rps"]
        for items in bodies
        for clients in _CLIENTS
    }
    p50_ms = cells["lorecast", 100, 1]["p50_ms"]
    fast = all(ratio >= _BAR_RATIO[items] for (items, _), ratio in ratios.items())
    even = all(
        cells["lorecast", 100, clients]["p99_ms"] <= cells["onnx", 100, clients]["p99_ms"]
        for clients in _CLIENTS
    )
    difference = float(np.abs(np.subtract(*answers.values())).max())
    return Outcome(
        figure="; ".join(
            f"× {items} items: "
            + ", ".join(f"{ratios[items, clients]:.2f} × with {clients}" for clients in _CLIENTS)
            for items in bodies
        )
        + f" connections; p50 {p50_ms:.2f} ms",
        passed=fast and even and p50_ms <= _BAR_P50_MS and difference <= 1e-4,
        details={
            "ratios": {f"{items} × {clients}": ratio for (items, clients), ratio in ratios.items()},
            "p99_no_worse_at_100": even,
            "max_difference": difference,
            "cells": {" ".join(map(str, cell)): found for cell, found in cells.items()},
            "where_ms": {"GET /healthz": median(bare_ms)} | _parts_ms(bundle, bodies[100][0]),
            "turns": turns,
            "peers_versions": peers.versions(),
        },
    )


@contextmanager
def fast_serving(bundle: Path, replicas: int) -> Iterator[tuple[str, int]]:
    """`lorecast serve` on Ray Serve's fast HTTP path; yields (host, port)."""
    with (
        patch.dict(os.environ, _FAST),
        serving("--bundle", str(bundle), f"serving.replicas={replicas}") as address,
    ):
        time.sleep(_SETTLED_S)
        yield address


def _cell(turn: dict[str, Any]) -> tuple[str, int, int]:
    return turn["side"], turn["items"], turn["clients"]


def random_bodies(bundle: Path, items: int) -> list[str]:
    """Requests of different users, each with candidates drawn at random."""
    card = Scorer.load(bundle).bundle
    user_ids, item_ids = (card.entities(side)["id"].to_pylist() for side in ("user", "item"))
    rng = np.random.default_rng(0)
    users = rng.choice(len(user_ids), _BODIES, replace=False)
    return [
        json.dumps(
            {
                "user_id": user_ids[user],
                "item_ids": [item_ids[i] for i in rng.integers(0, len(item_ids), items)],
            }
        )
        for user in users
    ]


def _scores(address: tuple[str, int], body: str) -> list[float]:
    request = urllib.request.Request(
        "http://{}:{}/v1/score".format(*address),
        body.encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        scores: list[float] = json.load(answer)["scores"]
    return scores


def _parts_ms(bundle: Path, body: str) -> dict[str, float]:
    """Medians of what a request does besides HTTP, here, with one thread."""
    torch.set_num_threads(1)
    scorer = Scorer.load(bundle)
    query = ScoreRequest.model_validate_json(body)
    answer = {"scores": scorer.candidates(query.user_id, query.item_ids).score_N.tolist()}
    return {
        "parse JSON": _median_ms(lambda: ScoreRequest.model_validate_json(body)),
        "score": _median_ms(lambda: scorer.candidates(query.user_id, query.item_ids)),
        "write JSON": _median_ms(lambda: to_json(answer)),
    }


def _median_ms(work: Callable[[], object], repeats: int = 300) -> float:
    taken_s = []
    for _ in range(repeats):
        started_s = time.perf_counter()
        work()
        taken_s.append(time.perf_counter() - started_s)
    return round(1000 * median(taken_s[repeats // 10 :]), 4)
