"""Point 5e: what prestored knowledge costs a request: DIN with KSER and the bare DIN, served.

MovieLens-1M, 17 texts of an item; one user × 100 items in JSON, one connection, each model
behind a `lorecast serve` of its own on Ray Serve's fast HTTP path, one replica with one thread.
They are up in turns: two HAProxies of Ray do not live on one machine. Where the difference is: the
same requests scored in this process, without HTTP and Ray.
"""

import json
import os
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.closed_loop import load
from benchmarks.harness import Outcome
from benchmarks.served import bundles
from benchmarks.serving_race import fast_serving, random_bodies
from lorecast.lifecycle.scorer import Scorer

BAR = "p50 of prestored KSER within 5 % of the bare backbone's, 100 items, one connection"
_BAR_RATIO = 1.05
_ITEMS = 100
_ROUNDS = 4
_SECONDS = 20.0
_SCORED = 300
_BASE, _KSER = "base", "all_parameters"


def measure() -> Outcome:
    with tempfile.TemporaryDirectory(prefix="lorecast-prestored-") as folder:
        return race(dict(bundles(Path(folder))), _ROUNDS, _SECONDS)


def race(models: dict[Any, Path], rounds: int, seconds: float) -> Outcome:
    """Both models, in turns of so many seconds."""
    bodies = random_bodies(models[_BASE], _ITEMS)
    turns: list[dict[str, Any]] = []
    for _ in range(rounds):
        turn: dict[str, Any] = {}
        for name, bundle in models.items():
            with fast_serving(bundle, 1) as address:
                turn[name] = load(address, "/v1/score", bodies, 1, seconds).p50_ms
        turns.append(turn | {"load_1min": os.getloadavg()[0]})
    p50_ms = {name: median(turn[name] for turn in turns) for name in models}
    ratio = median(turn[_KSER] / turn[_BASE] for turn in turns)
    score_ms = _score_ms(models, bodies)
    return Outcome(
        figure=(
            f"p50 {p50_ms[_KSER]:.2f} ms with KSER, {p50_ms[_BASE]:.2f} ms without: {ratio:.2f} ×; "
            f"scoring alone {score_ms[_KSER]:.2f} and {score_ms[_BASE]:.2f} ms"
        ),
        passed=ratio <= _BAR_RATIO,
        details={"ratio": ratio, "p50_ms": p50_ms, "score_ms": score_ms, "turns": turns},
    )


def _score_ms(models: dict[Any, Path], bodies: list[str]) -> dict[Any, float]:
    """Medians of `Scorer.candidates`, in turns, with one thread."""
    torch.set_num_threads(1)
    scorers = {name: Scorer.load(bundle) for name, bundle in models.items()}
    taken_s: dict[Any, list[float]] = {name: [] for name in models}
    for place in range(_SCORED):
        query = json.loads(bodies[place % len(bodies)])
        for name, scorer in scorers.items():
            started_s = time.perf_counter()
            scorer.candidates(query["user_id"], query["item_ids"])
            taken_s[name].append(time.perf_counter() - started_s)
    return {
        name: round(1000 * median(taken[_SCORED // 10 :]), 3) for name, taken in taken_s.items()
    }
