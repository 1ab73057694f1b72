"""Inference on Ray Data over blocks that lie on disk.

Each block is a Parquet file that one call of a worker reads, so memory does not grow with the
input, and a block is what a crash can cost. Actors that hold a model take one block at a time.
"""

import os
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lorecast.config import ComputeConfig
from lorecast.errors import LorecastError
from lorecast.jobs import cluster

Columns: TypeAlias = dict[str, NDArray[Any]]

_MAX_TASKS = 512
"""Beyond, several blocks are one task, done one after the other; Ray's books grow with tasks."""
_MAX_ATTEMPTS = 3
"""For a block whose process dies; Ray would start it anew for ever."""


def write_blocks(tables: Iterable[pa.Table], folder: Path, block_rows: int) -> list[Path]:
    """Tables of one schema as files of `block_rows` rows, the last perhaps smaller."""
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    for block in _recut(tables, block_rows):
        path = folder / f"block-{len(paths):06d}.parquet"
        pq.write_table(block, path)
        paths.append(path)
    return paths


def map_blocks(
    blocks: Sequence[Path],
    worker: type,
    arguments: Mapping[str, Any],
    compute: ComputeConfig,
    *,
    actors: int,
    gpus: float,
    environment: Mapping[str, str],
) -> Generator[Columns, None, None]:
    """What the workers return for each block, in the order in which blocks finish.

    `worker(**arguments)` lives in an actor and is called with the batch `{"block": [path]}`; its
    constructor must be light and free of errors, since Ray starts an actor that failed to start
    again. Actors end when the iterator is exhausted or closed; `environment` is theirs.
    """
    import ray

    cluster.connect(compute)
    dataset = ray.data.from_items(
        [{"block": str(path.resolve())} for path in blocks],
        override_num_blocks=min(len(blocks), _MAX_TASKS),
    ).map_batches(
        worker,
        fn_constructor_kwargs=dict(arguments),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(actors, len(blocks))),
        num_cpus=1,
        num_gpus=gpus or None,
        runtime_env={"env_vars": dict(environment)},
    )
    with cluster.our_errors():
        yield from dataset.iter_batches(batch_size=None, batch_format="numpy")


def thread_environment(compute: ComputeConfig, actors: int) -> dict[str, str]:
    """Variables that share the cores among so many actors of a machine.

    Threads that wait give their core away: on a busy machine spinning made two threads five times
    slower than one.
    """
    threads = compute.threads or max(1, len(os.sched_getaffinity(0)) // actors)
    return {
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "true",
    }


def open_block(batch: Mapping[str, Any], error: type[LorecastError]) -> pa.Table:
    """The table of the block in a worker's batch.

    Raises `error` if the processes of earlier attempts at this block all died.
    """
    path = Path(batch["block"][0])
    attempts = path.with_suffix(".attempts")
    with attempts.open("ab") as marks:
        marks.write(b".")
    if attempts.stat().st_size > _MAX_ATTEMPTS:
        raise error(
            f"the model's process ended {_MAX_ATTEMPTS} times over the same block, as it does "
            "when memory runs out; use a smaller model or batch, or a larger machine"
        )
    return pq.read_table(path)


def _recut(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    pending: list[pa.Table] = []
    num_pending = 0
    for table in tables:
        pending.append(table)
        num_pending += table.num_rows
        while num_pending >= rows:
            joined = pa.concat_tables(pending)
            yield joined.slice(0, rows)
            pending, num_pending = [joined.slice(rows)], num_pending - rows
    if num_pending:
        yield pa.concat_tables(pending)
