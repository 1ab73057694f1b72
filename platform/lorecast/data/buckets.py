"""Interactions regrouped by user through files, so that no one holds them all.

Each reader of the source writes one Arrow file with a record batch for every bucket of users; who
later builds a bucket reads that batch from all files. Buckets are ranges of a shuffled order of the
users, which makes them even whatever the order of the users table says. The order depends on
nothing but the number of users, so neither do the rows that come out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

_SEED: Final = 20_011
_SUFFIX: Final = ".arrow"
_OPTIONS: Final = pa.ipc.IpcWriteOptions(compression="lz4")


@dataclass(frozen=True)
class Buckets:
    """Users parted to buckets of equal numbers of users."""

    rank_U: NDArray[np.int64]
    """Place of each user row in the shuffled order: [users + 1]; row 0 is no user."""
    num_buckets: int

    @classmethod
    def of_users(cls, num_users: int, num_buckets: int) -> "Buckets":
        """At most one bucket a user."""
        rank_U = np.full(num_users + 1, -1, np.int64)
        rank_U[1:] = np.random.default_rng(_SEED).permutation(num_users)
        return cls(rank_U, max(1, min(num_buckets, num_users)))

    def write(self, folder: Path, name: str, accepted: pa.Table) -> None:
        """Writes rows (with `user_row`) grouped by bucket; inside one they keep their order.

        Files are read back in the order of their names.
        """
        rank_N = self.rank_U[accepted["user_row"].to_numpy()]
        bucket_N = rank_N * self.num_buckets // (len(self.rank_U) - 1)
        grouped = accepted.take(pa.array(np.argsort(bucket_N, kind="stable"))).combine_chunks()
        ends = np.bincount(bucket_N, minlength=self.num_buckets).cumsum()
        partial = folder / f".{name}.partial"
        with pa.ipc.new_file(partial, accepted.schema, options=_OPTIONS) as writer:
            start = 0
            for end in ends.tolist():
                writer.write_batch(_batch(grouped.slice(start, end - start)))
                start = end
        partial.replace(folder / (name + _SUFFIX))

    def read(self, folder: Path, bucket: int) -> pa.Table:
        """All rows of a bucket, in the order of the source."""
        batches = []
        for file in sorted(folder.glob(f"*{_SUFFIX}")):
            with pa.memory_map(str(file)) as source, pa.ipc.open_file(source) as reader:
                batches.append(reader.get_batch(bucket))
        return pa.Table.from_batches(batches)


def _batch(table: pa.Table) -> pa.RecordBatch:
    batches: Sequence[pa.RecordBatch] = table.to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)
