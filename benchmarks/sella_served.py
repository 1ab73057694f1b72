"""Point 4f: the world's SeLLa bundle behind a real `lorecast serve`: 1 user × 20 items.

A test row's item goes out with the row's user and history among 19 others; the answer must be what
the scoring stage wrote for that row. Then latency, with the histories that the bundle has. Trained
on fewer rows than the configuration says, which neither scores' equality nor latency depends on.
"""

import http.client
import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

import lorecast
from benchmarks.harness import Outcome
from benchmarks.parity import only, post, requests_of
from benchmarks.server import LORECAST, serving
from lorecast.data.batches import load_samples
from lorecast.data.dataset import Dataset

BAR = "20 items over HTTP score as offline to 1e-4; the registered champion is what is served"
_CANDIDATES, _COMPARED, _TIMED = 20, 300, 400
_ROOT = Path(__file__).parents[1]


def measure() -> Outcome:
    with tempfile.TemporaryDirectory(prefix="lorecast-sella-served-") as folder:
        experiment = [
            str(_ROOT / "configs" / "world-sella.yaml"),
            f"compute.workspace={folder}",
            "dataset.split.test=0.1",
            "sella.methods=[sella]",
            "sella.tune.rows=2000",
            "sella.guide.rows=2000",
            "sella.guide.epochs=1",
            "sella.valid_rows=1000",
        ]
        subprocess.run([LORECAST, "run", *experiment], check=True)
        workspace = Path(folder)
        dataset = Dataset.open(only(workspace / "prepare"))
        offline = pq.read_table(only(workspace / "sella-score") / "scores.parquet")["score"]
        bundle = only(workspace / "register") / "bundle"
        requests, chosen, places = _requests(dataset)
        with serving(*experiment) as address:
            connection = http.client.HTTPConnection(*address)
            connection.request("GET", "/v1/model")
            model = json.loads(connection.getresponse().read())
            answers = [post(connection, json.dumps(request))["scores"] for request in requests]
            over_http_s = _latencies(connection, dataset)
        scorer = lorecast.load(bundle)
        in_process = [
            scorer.candidates(
                request["user_id"],
                request["item_ids"],
                [(entry["item_id"], entry["rating"]) for entry in request["history"]],
            ).score_N
            for request in requests
        ]
        size = sum(file.stat().st_size for file in bundle.rglob("*") if file.is_file())
    expected = offline.to_numpy()[chosen]
    found = np.array([scores[place] for scores, place in zip(answers, places, strict=True)])
    worst = float(np.abs(found - expected).max())
    worst_of_scorer = float(np.abs(np.array(answers) - np.array(in_process)).max())
    p50_ms, p99_ms = (1000 * float(np.quantile(over_http_s, q)) for q in (0.5, 0.99))
    return Outcome(
        figure=(
            f"largest difference {worst:.1e} over {len(found)} requests of {_CANDIDATES} items; "
            f"p50 {p50_ms:.1f} ms, p99 {p99_ms:.1f} ms, one client, one replica, one thread"
        ),
        passed=(
            worst <= 1e-4
            and worst_of_scorer <= 1e-4
            and model["kind"] == "sella"
            and model["model_version"] == "lorecast-world-sella/1"
        ),
        details={
            "max_difference_http_offline": worst,
            "max_difference_http_scorer": worst_of_scorer,
            "score_spread": float(np.ptp(expected)),
            "requests": len(found),
            "candidates": _CANDIDATES,
            "p50_ms": round(p50_ms, 2),
            "p99_ms": round(p99_ms, 2),
            "mean_ms": round(1000 * statistics.fmean(over_http_s), 2),
            "served": {key: model[key] for key in ("model_version", "kind", "strategy")},
            "bundle_bytes": size,
        },
    )


def _requests(dataset: Dataset) -> tuple[list[dict[str, Any]], np.ndarray, np.ndarray]:
    """Requests, the test row that each is about, and its item's place among the candidates."""
    rng = np.random.default_rng(0)
    samples = load_samples(dataset, "test")
    chosen = rng.choice(len(samples), _COMPARED, replace=False)
    places = rng.integers(0, _CANDIDATES, _COMPARED)
    items = dataset.items()["id"].to_pylist()
    requests = requests_of(dataset, samples.take(chosen))
    for request, place in zip(requests, places, strict=True):
        (own,) = request["item_ids"]
        others = rng.choice(len(items), _CANDIDATES - 1, replace=False)
        drawn = [items[other] for other in others]
        request["item_ids"] = [*drawn[:place], own, *drawn[place:]]
    return requests, chosen, places


def _latencies(connection: http.client.HTTPConnection, dataset: Dataset) -> list[float]:
    """Seconds of each request after a warm-up, one client."""
    users, items = (table["id"].to_pylist() for table in (dataset.users(), dataset.items()))
    rng = np.random.default_rng(1)
    taken_s = []
    for place in range(_TIMED):
        drawn = rng.choice(len(items), _CANDIDATES, replace=False)
        body = {"user_id": users[place % len(users)], "item_ids": [items[i] for i in drawn]}
        text = json.dumps(body)
        started_s = time.perf_counter()
        post(connection, text)
        taken_s.append(time.perf_counter() - started_s)
    return taken_s[_TIMED // 4 :]
