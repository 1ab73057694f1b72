"""Point 5n: `lorecast score` on 10 M pairs against a bare torch loop on the same cores.

MovieLens-1M, DIN with KSER (prestored), random users and films. The loop is the strongest plain
form: the same model and batches, rows as tensors in memory instead of ids in Parquet, scores to an
array instead of files, one process with one torch thread a core, timed from the first batch on.
Ours is timed from the first actor's start to the last part on disk, so the actors' imports and
loading count; Ray's own start does not. Loop and command take turns.

Memory: peak of the proportional set sizes of the command's process and all of Ray's below it. HTTP:
sampled pairs go to a real `lorecast serve` of the same bundle.
"""

import http.client
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.harness import Outcome
from benchmarks.parity import post
from benchmarks.served import bundles
from benchmarks.server import LORECAST, serving
from lorecast.lifecycle.bundle import Bundle
from lorecast.models.inputs import Batch

BAR = (
    "10 M pairs: ≥ 0.8 × the rows/s of a bare torch loop on the same cores, memory at 10 M ≤ 1.1 × "
    "that at 2 M, scores as over HTTP to 1e-6"
)
_BAR_RATIO, _BAR_MEMORY, _BAR_DIFFERENCE = 0.8, 1.1, 1e-6
_SIZES = (2_000_000, 10_000_000)
_LOOP_ROWS = 1_000_000
_SAMPLED = 2_000
_BATCH = 4096
"""Rows a forward pass takes at once, as in the scorer."""


def measure() -> Outcome:
    with tempfile.TemporaryDirectory(prefix="lorecast-score-") as folder:
        return race(bundles(Path(folder))["all_parameters"], Path(folder), _SIZES, _LOOP_ROWS)


def race(bundle: Path, folder: Path, sizes: tuple[int, int], loop_rows: int) -> Outcome:
    """Both sides on `bundle`, in turns, with files below `folder`."""
    pairs = _write_pairs(bundle, folder, max(*sizes, loop_rows))
    cores = len(os.sched_getaffinity(0))
    loops = [_loop(bundle, folder, loop_rows, cores)]
    runs = []
    for rows in sizes:
        runs.append(_run(bundle, folder, pairs.slice(0, rows), cores))
        loops.append(_loop(bundle, folder, loop_rows, cores))
    small, large = runs
    loop = median(turn["rows_per_s"] for turn in loops)
    ratio = large["rows_per_s"] / loop
    memory = large["peak_mib"] / small["peak_mib"]
    difference = _difference_to_http(bundle, folder / f"scores-{sizes[1]}")
    return Outcome(
        figure=(
            f"{ratio:.2f} × the bare loop ({large['rows_per_s']:,.0f} against {loop:,.0f} rows/s "
            f"on {cores} cores), peak {large['peak_mib']:,.0f} MiB at {sizes[1]:,} pairs and "
            f"{small['peak_mib']:,.0f} at {sizes[0]:,}, within {difference:.0e} of HTTP"
        ),
        passed=(ratio >= _BAR_RATIO and memory <= _BAR_MEMORY and difference <= _BAR_DIFFERENCE),
        details={
            "ratio": ratio,
            "ratio_whole_command": sizes[1] / large["wall_s"] / loop,
            "memory_ratio": memory,
            "max_difference_http": difference,
            "cores": cores,
            "loops": loops,
            "runs": runs,
        },
    )


def _write_pairs(bundle: Path, folder: Path, rows: int) -> pa.Table:
    """Random pairs, as ids and, for the loop, as rows."""
    rng = np.random.default_rng(0)
    table = {}
    for side in ("user", "item"):
        ids = pq.read_table(bundle / f"{side}s.parquet", columns=["id"])["id"].combine_chunks()
        place = rng.integers(0, len(ids), rows, dtype=np.int32)
        np.save(folder / f"{side}_rows.npy", place + 1)
        table[f"{side}_id"] = ids.take(pa.array(place))
    return pa.table(table)


def _run(bundle: Path, folder: Path, pairs: pa.Table, cores: int) -> dict[str, Any]:
    """What `lorecast score` says of itself, its wall time and its peak of memory."""
    rows = pairs.num_rows
    pq.write_table(pairs, folder / f"pairs-{rows}.parquet")
    words = ["score", "--pairs", str(folder / f"pairs-{rows}.parquet"), "--bundle", str(bundle)]
    words += ["--out", str(folder / f"scores-{rows}"), "--json"]
    words += [f"compute.workspace={folder / 'workspace'}", f"compute.scorers={cores}"]
    started_s = time.monotonic()
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    command = subprocess.Popen(
        [LORECAST, *words], stdout=subprocess.PIPE, text=True, env=environment
    )
    peak = _Peak(command.pid)
    told, _ = command.communicate()
    wall_s = time.monotonic() - started_s
    peak.stop()
    assert command.returncode == 0, told
    facts: Mapping[str, Any] = json.loads(told.splitlines()[-1])
    assert facts["pairs"] == rows, facts
    return {
        "rows": rows,
        "rows_per_s": facts["pairs_per_second"],
        "scoring_s": facts["scoring_s"],
        "wall_s": round(wall_s, 2),
        "peak_mib": round(peak.bytes / 2**20, 1),
        "load_1min": os.getloadavg()[0],
    }


class _Peak:
    """Watches the memory of a process and of all below it, once a second."""

    def __init__(self, pid: int) -> None:
        self.bytes = 0
        self._process = psutil.Process(pid)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(1.0):
            total = 0
            try:
                tree = [self._process, *self._process.children(recursive=True)]
            except psutil.Error:
                return
            for process in tree:
                try:
                    total += process.memory_full_info().pss
                except psutil.Error:
                    continue  # ended meanwhile
            self.bytes = max(self.bytes, total)


def _loop(bundle: Path, folder: Path, rows: int, cores: int) -> dict[str, Any]:
    """The bare loop in a process a core, started together."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.offline_scoring"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        for _ in range(cores)
    ]
    for shard, process in enumerate(processes):
        task = {
            "bundle": str(bundle),
            "folder": str(folder),
            "first": rows * shard // cores,
            "last": rows * (shard + 1) // cores,
        }
        _tell(process, json.dumps(task))
    for process in processes:
        assert _hear(process) == "ready"
    for process in processes:
        _tell(process, "go")
    seconds = [float(_hear(process)) for process in processes]
    for process in processes:
        process.wait()
    return {"rows_per_s": rows / max(seconds), "seconds": seconds, "load_1min": os.getloadavg()[0]}


def _tell(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()


def _hear(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@torch.inference_mode()
def _work() -> None:
    task = json.loads(sys.stdin.readline())
    torch.set_num_threads(1)
    bundle = Bundle.open(task["bundle"])
    model = bundle.load_model(bundle.open_knowledge())
    users = bundle.entities("user")
    recent_UL, level_UL = (
        torch.from_numpy(np.pad(flat.reshape(-1, bundle.history_length), ((1, 0), (0, 0))))
        for flat in (
            users[name].combine_chunks().flatten().to_numpy()
            for name in ("recent_item_rows", "recent_ratings")
        )
    )
    user_B, item_B = (
        torch.from_numpy(np.load(Path(task["folder"]) / f"{side}_rows.npy")).narrow(
            0, task["first"], task["last"] - task["first"]
        )
        for side in ("user", "item")
    )
    score_B = torch.empty(len(user_B))
    print("ready", flush=True)
    sys.stdin.readline()
    started_s = time.perf_counter()
    for start in range(0, len(user_B), _BATCH):
        user_b = user_B[start : start + _BATCH]
        logit_b = model(
            Batch(
                user_row_B=user_b,
                item_row_B=item_B[start : start + _BATCH],
                history_item_BL=recent_UL.index_select(0, user_b),
                history_rating_BL=level_UL.index_select(0, user_b),
            )
        )
        score_B[start : start + _BATCH] = logit_b.sigmoid()
    print(time.perf_counter() - started_s, flush=True)


def _difference_to_http(bundle: Path, scores: Path) -> float:
    """The largest, over sampled rows; each is a request of its own."""
    table = pq.read_table(scores)
    chosen = np.random.default_rng(1).choice(table.num_rows, _SAMPLED, replace=False)
    sampled = table.take(pa.array(np.sort(chosen))).to_pylist()
    with serving("--bundle", str(bundle)) as address:
        connection = http.client.HTTPConnection(*address)
        return max(
            abs(_over_http(connection, row["user_id"], row["item_id"]) - row["score"])
            for row in sampled
        )


def _over_http(connection: http.client.HTTPConnection, user: str, item: str) -> float:
    answer = post(connection, json.dumps({"user_id": user, "item_ids": [item]}))
    (score,) = answer["scores"]
    return float(score)


if __name__ == "__main__":
    _work()
