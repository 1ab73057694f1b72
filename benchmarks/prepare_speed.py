"""1g: prepare against the same work in plain polars, and its memory from 1 M to 20 M rows.

Speed: MovieLens-1M to samples with histories as Parquet, both from the same warm file, in turns.
The polars script is written by hand for this one table (integer ids, no bad rows, every history
full, no users.parquet), in the fastest form found: `concat_arr` built the histories 20 times and
more faster than the usual `concat_list`. Its rows must be ours, checked by count and checksum. Ray
and its workers are started before and reported apart.

Memory: synthetic interactions of the same users and items, each size in a process of its own.
Counted is anonymous memory (heap, stacks) of the driver and of every process of its Ray, summed,
20 times a second; mapped files and Ray's shared object store are not in it.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.harness import Outcome
from lorecast.config import ExperimentConfig
from lorecast.data.batches import load_samples
from lorecast.data.dataset import Dataset
from lorecast.data.layout import SPLITS
from lorecast.jobs import prepare
from lorecast.jobs.cluster import connect
from lorecast.jobs.console import Console

BAR = "at most 3 times plain polars; peak memory within 20 % from 1 M to 20 M interactions"

_ROUNDS = 5
_HISTORY = 10
_SIZES = (1_000_000, 20_000_000)
_NUM_USERS, _NUM_ITEMS = 20_000, 5_000
_CHUNK = 250_000


def measure() -> Outcome:
    """Ratio of median times, and ratio of peak memories."""
    shared = Path(__file__).parents[2] / "shared" / "data"
    speed = _measure_speed(Path(os.environ.get("LORECAST_TEST_DATA", shared)) / "ml-1m")
    memory = [_measure_memory(size) for size in _SIZES]
    growth = memory[1]["peak_mib"] / memory[0]["peak_mib"]
    ratio = speed["ratio"]
    return Outcome(
        figure=f"{ratio:.2f} times plain polars; 20 times the rows take {growth:.2f} the memory",
        passed=ratio <= 3 and abs(growth - 1) <= 0.2 and speed["same_rows"],
        details={"speed": speed, "memory": dict(zip(map(str, _SIZES), memory, strict=True))},
    )


def _measure_speed(folder: Path) -> dict[str, Any]:
    started_s = time.monotonic()
    config = ExperimentConfig.model_validate(
        {"dataset": {"source": "movielens", "path": str(folder), "history_length": _HISTORY}}
    )
    connect(config.compute)
    _warm_workers()
    ray_start_s = time.monotonic() - started_s
    ours_s, theirs_s = [], []
    checksums = set()
    for _ in range(_ROUNDS):
        with tempfile.TemporaryDirectory() as place:
            started_s = time.monotonic()
            artifact = prepare.run(_at(config, place), Console(quiet=True))
            ours_s.append(time.monotonic() - started_s)
            dataset = Dataset.open(artifact.path)
            checksums.add(tuple(_checksum_of_ours(dataset, split) for split in SPLITS))
        with tempfile.TemporaryDirectory() as place:
            started_s = time.monotonic()
            _plain_polars(folder, Path(place))
            theirs_s.append(time.monotonic() - started_s)
            checksums.add(tuple(_checksum_of_theirs(Path(place), split) for split in SPLITS))
    return {
        "ratio": round(statistics.median(ours_s) / statistics.median(theirs_s), 3),
        "lorecast_s": [round(s, 2) for s in ours_s],
        "polars_s": [round(s, 2) for s in theirs_s],
        "ray_start_s": round(ray_start_s, 2),
        "samples": sum(count for count, _ in next(iter(checksums))),
        "same_rows": len(checksums) == 1,
        "polars": pl.__version__,
        "polars_threads": pl.thread_pool_size(),
    }


def _at(config: ExperimentConfig, workspace: str) -> ExperimentConfig:
    compute = config.compute.model_copy(update={"workspace": workspace})
    return config.model_copy(update={"compute": compute})


def _warm_workers() -> None:
    import ray

    tasks = ray.data.range(8, override_num_blocks=8)
    tasks.map(lambda row: row, num_cpus=prepare.labels_per_core()).take_all()


def _plain_polars(folder: Path, target: Path) -> None:
    users = pl.read_parquet(folder / "users.parquet", columns=["user_id"])
    movies = pl.read_parquet(folder / "movies.parquet", columns=["movie_id"])
    users = users.with_row_index("user_row", 1).cast({"user_row": pl.Int32})
    movies = movies.with_row_index("item_row", 1).cast({"item_row": pl.Int32})
    part = np.zeros(users.height, np.int8)
    order = np.random.default_rng(0).permutation(users.height)
    part[order[users.height * 8 // 10 : users.height * 9 // 10]] = 1
    part[order[users.height * 9 // 10 :]] = 2
    users = users.with_columns(part=part)
    steps = range(_HISTORY, 0, -1)
    samples = (
        pl.scan_parquet(folder / "ratings.parquet")
        .select("user_id", "movie_id", "rating", "user_seq", timestamp="ts")
        .join(users.lazy(), on="user_id", maintain_order="left")
        .join(movies.lazy(), on="movie_id", maintain_order="left")
        .sort("user_row", "user_seq", maintain_order=True)
        .with_columns(
            position=pl.int_range(pl.len(), dtype=pl.Int32).over("user_row"),
            label=(pl.col("rating") > 3).cast(pl.Int8),
            prefix=pl.min_horizontal((pl.len().over("user_row") + 1) // 2, 30),
            history_item_rows=pl.concat_arr(pl.col("item_row").shift(k) for k in steps),
            history_ratings=pl.concat_arr(pl.col("rating").shift(k) for k in steps),
        )
        .filter(pl.col("position") >= pl.col("prefix"))
        .select(
            *("user_row", "item_row", "label", "timestamp", "position", "part"),
            *("history_item_rows", "history_ratings"),
        )
        .collect()
    )
    for code, split in enumerate(SPLITS):
        chosen = samples.filter(pl.col("part") == code).drop("part")
        chosen.write_parquet(target / f"{split}.parquet", compression="zstd", compression_level=1)


def _checksum_of_ours(dataset: Dataset, split: Any) -> tuple[int, int]:
    samples = load_samples(dataset, split)
    return _checksum(
        np.column_stack(
            [
                *(samples.user_row_B, samples.item_row_B, samples.label_B),
                *(samples.timestamp_B, samples.position_B),
                samples.history_item_BL,
                samples.history_rating_BL,
            ]
        )
    )


def _checksum_of_theirs(folder: Path, split: str) -> tuple[int, int]:
    table = pl.read_parquet(folder / f"{split}.parquet")
    plain = ("user_row", "item_row", "label", "timestamp", "position")
    lists = ("history_item_rows", "history_ratings")
    return _checksum(
        np.column_stack(
            [
                *(table[name].to_numpy() for name in plain),
                *(table[name].to_numpy().reshape(table.height, _HISTORY) for name in lists),
            ]
        )
    )


def _checksum(rows: np.ndarray) -> tuple[int, int]:
    """Number of rows, and a sum over rows that depends on every value but not on their order."""
    mixed = np.full(len(rows), 14_695_981_039_346_656_037, np.uint64)
    for column in rows.astype(np.uint64).T:
        mixed = (mixed ^ column) * np.uint64(1_099_511_628_211)
        mixed ^= mixed >> np.uint64(29)
    return len(rows), int(mixed.sum(dtype=np.uint64))


def _measure_memory(num_rows: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as place:
        _write_synthetic(Path(place), num_rows)
        command = [sys.executable, "-m", "benchmarks.prepare_speed", place]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found


def _write_synthetic(folder: Path, num_rows: int) -> None:
    rng = np.random.default_rng(0)
    pq.write_table(pa.table({"user_id": range(_NUM_USERS)}), folder / "users.parquet")
    pq.write_table(pa.table({"item_id": range(_NUM_ITEMS)}), folder / "items.parquet")
    writer: pq.ParquetWriter | None = None
    for start in range(0, num_rows, _CHUNK):
        table = pa.table(
            {
                "user_id": rng.integers(0, _NUM_USERS, _CHUNK, np.int32),
                "item_id": rng.integers(0, _NUM_ITEMS, _CHUNK, np.int32),
                "rating": rng.integers(1, 6, _CHUNK, np.int8),
                "timestamp": np.arange(start, start + _CHUNK),
            }
        )
        writer = writer or pq.ParquetWriter(folder / "clicks.parquet", table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()


def _prepare_synthetic(folder: str) -> dict[str, Any]:
    """In a process of its own: prepares the tables in `folder` and watches memory."""
    config = ExperimentConfig.model_validate(
        {
            "dataset": {
                "source": "tables",
                "path": folder,
                "interactions": {"file": "clicks.parquet", "rating": "rating"},
                "users": {"file": "users.parquet", "id": "user_id"},
                "items": {"file": "items.parquet", "id": "item_id"},
            },
            "compute": {"workspace": f"{folder}/workspace"},
        }
    )
    connect(config.compute)
    _warm_workers()
    idle_mib = _anonymous_mib()
    started_s = time.monotonic()
    with _peak_memory() as peak:
        artifact = prepare.run(config, Console(quiet=True))
    seconds = time.monotonic() - started_s
    return {
        "peak_mib": round(peak["mib"]),
        "idle_mib": round(idle_mib),
        "seconds": round(seconds, 1),
        "interactions_per_s": round(artifact.facts["interactions"] / seconds),
        "samples": sum(artifact.facts["rows"].values()),
    }


@contextmanager
def _peak_memory() -> Iterator[dict[str, float]]:
    peak = {"mib": 0.0}
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            peak["mib"] = max(peak["mib"], _anonymous_mib())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


def _anonymous_mib() -> float:
    """Heap and stacks of this process and all below it."""
    total_kib = 0
    this = psutil.Process()
    for process in (this, *this.children(recursive=True)):
        try:
            rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
        except (OSError, psutil.Error):
            continue
        line = next(line for line in rollup.splitlines() if line.startswith("Anonymous:"))
        total_kib += int(line.split()[1])
    return total_kib / 1024


if __name__ == "__main__":
    print(json.dumps(_prepare_synthetic(sys.argv[1])))
