"""Point 1h: scores over HTTP against those that training wrote, row by row.

MovieLens-1M with one LLM's short item texts, the last tenth of each user's ratings as samples,
DIN+KSER for one epoch: what is compared is arithmetic, not quality. Each of 10,000 test rows is one
request to a real Ray Serve, with that row's own history; `scores.parquet` holds what the trainer
scored for it in large batches.
"""

import http.client
import json
import os
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

import lorecast
from benchmarks.harness import Outcome
from benchmarks.server import LORECAST, serving
from lorecast.data.batches import Samples, load_samples
from lorecast.data.dataset import Dataset

BAR = "HTTP and offline scores of 10,000 test rows differ by at most 1e-6"
_ROWS, _CLIENTS, _TIMED_REQUESTS, _CANDIDATES = 10_000, 8, 500, 100
_FIELD = {
    "kind": "import",
    "name": "agent4rec",
    "side": "item",
    "file": "knowledge/item.parquet",
    "id": "movie_id",
    "where": {"source": "agent4rec"},
}
_ROOT = Path(__file__).parents[1]


def measure() -> Outcome:
    data = Path(os.environ.get("LORECAST_TEST_DATA", _ROOT.parent / "shared" / "data")) / "ml-1m"
    with tempfile.TemporaryDirectory(prefix="lorecast-parity-") as folder:
        experiment = [
            str(_ROOT / "configs" / "ml-1m.yaml"),
            f"dataset.path={data}",
            f"compute.workspace={folder}",
            f"knowledge.fields=[{json.dumps(_FIELD)}]",
            "dataset.prefix_share=0.9",
            "dataset.prefix_max=100000",
            "dataset.split.test=0.2",
            "training.strategies=[all_parameters]",
            "training.epochs=1",
        ]
        subprocess.run([LORECAST, "run", *experiment], check=True)
        workspace = Path(folder)
        dataset = Dataset.open(only(workspace / "prepare"))
        offline = pq.read_table(only(workspace / "train") / "scores.parquet")
        scorer = lorecast.load(only(workspace / "register") / "bundle")
        requests, chosen = _requests(dataset)
        over_http = np.empty(len(requests))
        in_process = scorer.score(
            [request["user_id"] for request in requests],
            [request["item_ids"][0] for request in requests],
            [[(h["item_id"], h["rating"]) for h in request["history"]] for request in requests],
        )
        with serving(*experiment) as address:
            started_s = time.monotonic()
            _send(address, requests, over_http)
            seconds = time.monotonic() - started_s
            latency_s = _latencies(address, dataset)
    trained = offline["score"].to_numpy()[chosen]
    worst = float(np.abs(over_http - trained).max())
    worst_scorer = float(np.abs(in_process - trained).max())
    return Outcome(
        figure=f"largest difference {worst:.1e} over {len(requests):,} rows",
        passed=max(worst, worst_scorer) <= 1e-6 and len(requests) == _ROWS,
        details={
            "max_difference_http": worst,
            "max_difference_scorer": worst_scorer,
            "score_spread": float(np.ptp(trained)),
            "requests_per_s": round(len(requests) / seconds, 1),
            "clients": _CLIENTS,
            "p50_ms_100_items_one_client": round(statistics.median(latency_s) * 1000, 2),
        },
    )


def only(folder: Path) -> Path:
    """The one finished artifact in a stage's folder."""
    (manifest,) = folder.glob("*/manifest.json")
    return manifest.parent


def _requests(dataset: Dataset) -> tuple[list[dict[str, Any]], NDArray[np.int64]]:
    """One request for each of the chosen test rows, and their places in the test part."""
    samples = load_samples(dataset, "test")
    chosen = np.random.default_rng(0).choice(len(samples), _ROWS, replace=False)
    return requests_of(dataset, samples.take(chosen)), chosen


def requests_of(dataset: Dataset, rows: Samples) -> list[dict[str, Any]]:
    """One request a row: its user, its item, its history."""
    users = [None, *dataset.users()["id"].to_pylist()]
    items = [None, *dataset.items()["id"].to_pylist()]
    levels = (None, *dataset.rating_levels)
    return [
        {
            "user_id": users[user],
            "item_ids": [items[item]],
            "history": [
                {"item_id": items[past], "rating": levels[level]}
                for past, level in zip(history, ratings, strict=True)
                if past
            ],
        }
        for user, item, history, ratings in zip(
            rows.user_row_B,
            rows.item_row_B,
            rows.history_item_BL,
            rows.history_rating_BL,
            strict=True,
        )
    ]


def _send(
    address: tuple[str, int], requests: Sequence[dict[str, Any]], scores: NDArray[np.float64]
) -> None:
    def client(first: int) -> None:
        connection = http.client.HTTPConnection(*address)
        for place in range(first, len(requests), _CLIENTS):
            (scores[place],) = post(connection, json.dumps(requests[place]))["scores"]

    scores.fill(np.nan)
    threads = [threading.Thread(target=client, args=(n,)) for n in range(_CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _latencies(address: tuple[str, int], dataset: Dataset) -> list[float]:
    """Seconds of each request for one user and 100 candidates, one client, after a warm-up."""
    users, items = (table["id"].to_pylist() for table in (dataset.users(), dataset.items()))
    connection = http.client.HTTPConnection(*address)
    taken_s = []
    for place in range(_TIMED_REQUESTS):
        body = {"user_id": users[place], "item_ids": items[place : place + _CANDIDATES]}
        text = json.dumps(body)
        started_s = time.perf_counter()
        post(connection, text)
        taken_s.append(time.perf_counter() - started_s)
    return taken_s[_TIMED_REQUESTS // 5 :]


def post(connection: http.client.HTTPConnection, body: str) -> dict[str, Any]:
    """The answer of /v1/score, which must be one."""
    connection.request("POST", "/v1/score", body)
    response = connection.getresponse()
    answer: dict[str, Any] = json.loads(response.read())
    assert response.status == 200, answer
    return answer
