"""The work of `prepare`, in pieces that run anywhere and in any order.

    scatter(fragment)    read, check, and regroup by user into files on disk
    count(bucket)        only for a split by time: how many samples each stretch of time has
    gather(bucket)       order each user's interactions, cut windows, write samples

A piece holds at most about `rows_per_task` interactions, or those of one user. What comes out does
not depend on how the work is cut.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lorecast.config import DatasetConfig
from lorecast.data import parsing
from lorecast.data.buckets import Buckets
from lorecast.data.files import Chunk, Fragment, TableFiles
from lorecast.data.histories import Timelines, prefix_lengths, timelines
from lorecast.data.interactions import InteractionRules, check
from lorecast.data.layout import (
    CONTEXT_PREFIX,
    REJECTED,
    SPLITS,
    Split,
    part_name,
    samples_folder,
)
from lorecast.data.rejected import Found, merge, summarise
from lorecast.data.samples import empty_past, past_table, sample_index, sample_table
from lorecast.data.split import TimeSpan, parts_by_time, parts_of_users

MAX_LEVELS: Final = 127
MAX_CONTEXTS: Final = 10_000
_PARQUET: Final = {"compression": "zstd", "use_dictionary": False}
"""Windows overlap, so plain values compress better than dictionary codes, and in half the time."""


@dataclass(frozen=True, kw_only=True)
class Scattered:
    """What reading a fragment found."""

    num_read: int
    rejected: dict[str, Found]
    ratings: list[float]
    """Distinct ratings; cut off beyond MAX_LEVELS + 1."""
    first_time: int | None
    last_time: int | None
    history: dict[str, int]
    """See `interactions.Checked`."""
    contexts: dict[str, list[str]]
    """Distinct values of each context column; cut off beyond MAX_CONTEXTS + 1."""


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """What building a bucket wrote."""

    rows: dict[Split, int]
    positives: dict[Split, int]


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """Everything the pieces share."""

    config: DatasetConfig
    rules: InteractionRules
    files: TableFiles
    user_ids: pa.StringArray
    item_ids: pa.StringArray
    buckets: Buckets
    rows_per_task: int
    target: Path
    scratch: Path

    def make_folders(self) -> None:
        """Creates what the pieces write into."""
        for split in SPLITS:
            samples_folder(self.target, split).mkdir(parents=True)
        for folder in (self._scattered, self._past):
            folder.mkdir()

    def check_types(self) -> None:
        """Raises InputError if a column's type can never hold what it should."""
        for path in self.files.paths:
            kinds = TableFiles(paths=(path,), csv=self.files.csv).column_types()
            empty = pa.schema([(name, kinds[name]) for name in self.rules.used]).empty_table()
            check(Chunk(0, empty, ()), str(path), self.rules, self.user_ids, self.item_ids)

    def scatter(self, index: int, fragment: Fragment) -> Scattered:
        """Reads the `index`-th fragment; rejected rows are written aside."""
        num_read = 0
        summaries = []
        ratings: list[pa.Array] = []
        times: list[int] = []
        history: Counter[str] = Counter()
        contexts: dict[str, list[pa.Array]] = {name: [] for name in self.rules.columns.context}
        chunks = self.files.scan(fragment, self.rules.used, self.rows_per_task)
        for number, chunk in enumerate(chunks):
            checked = check(chunk, str(fragment.path), self.rules, self.user_ids, self.item_ids)
            num_read += chunk.table.num_rows + len(chunk.malformed)
            history += checked.history
            name = f"{index:05d}-{number:05d}"
            if checked.rejected.num_rows:
                pq.write_table(
                    checked.rejected, self.target / REJECTED / f"part-interactions-{name}.parquet"
                )
                summaries.append(summarise(checked.rejected))
            if checked.accepted.num_rows:
                self.buckets.write(self._scattered, name, checked.accepted)
                ratings.append(pc.unique(checked.accepted["rating"]))
                times += pc.min_max(checked.accepted["timestamp"]).as_py().values()
                for column, values in contexts.items():
                    values.append(pc.unique(checked.accepted[CONTEXT_PREFIX + column]))
        return Scattered(
            num_read=num_read,
            rejected=merge(summaries),
            ratings=_distinct(ratings).to_pylist()[: MAX_LEVELS + 1],
            first_time=min(times, default=None),
            last_time=max(times, default=None),
            history=dict(history),
            contexts={
                name: _distinct(values).to_pylist()[: MAX_CONTEXTS + 1]
                for name, values in contexts.items()
            },
        )

    def count(self, bucket: int, span: TimeSpan) -> NDArray[np.int64]:
        """Number of samples of a bucket in each bin of time."""
        rows = self.buckets.read(self._scattered, bucket)
        lines = self._timelines(rows, np.zeros(rows.num_rows, np.int8))
        return span.counts(lines.timestamp_N[sample_index(lines, self._prefixes(lines))])

    def gather(
        self,
        bucket: int,
        levels: list[float],
        contexts: Mapping[str, list[str]],
        cuts: tuple[int, int] | None,
    ) -> Gathered:
        """Writes a bucket's samples by split, and what its users did (see `users_past`).

        `levels`: all distinct ratings, ascending. `contexts`: the values of the context columns.
        `cuts`: where time is split, if it is.
        """
        rows = self.buckets.read(self._scattered, bucket)
        codes_N = np.searchsorted(levels, rows["rating"].to_numpy()).astype(np.int8) + np.int8(1)
        lines = self._timelines(rows, codes_N, contexts)
        del rows
        prefix_U = self._prefixes(lines)
        user_row_U, past = past_table(lines, prefix_U, self.config.history_length)
        past = past.append_column("user_row", pa.array(user_row_U))
        pq.write_table(past, self._past / part_name(bucket), **_PARQUET)

        index_B = sample_index(lines, prefix_U)
        part_B = self._parts(lines, index_B, cuts)
        counts: dict[Split, int] = {}
        positives: dict[Split, int] = {}
        for part, split in enumerate(SPLITS):
            chosen = index_B[part_B == part]
            counts[split] = len(chosen)
            positives[split] = int(lines.label_N[chosen].sum())
            if len(chosen):
                names = list(contexts)
                table = sample_table(lines, chosen, self.config.history_length, names)
                path = samples_folder(self.target, split) / part_name(bucket)
                pq.write_table(table, path, **_PARQUET)
        return Gathered(rows=counts, positives=positives)

    def users_past(self) -> pa.Table:
        """`layout.past_schema` for all users, in row order. Call it when all is gathered."""
        parts = [pq.read_table(path) for path in sorted(self._past.iterdir())]
        active = pa.concat_tables(parts)
        idle = np.setdiff1d(np.arange(1, len(self.user_ids) + 1), active["user_row"].to_numpy())
        nothing = empty_past(len(idle), self.config.history_length)
        both = pa.concat_tables(
            [active, nothing.append_column("user_row", pa.array(idle, pa.int32()))]
        )
        return both.sort_by("user_row").drop_columns("user_row")

    def _timelines(
        self,
        rows: pa.Table,
        rating_N: NDArray[np.int8],
        contexts: Mapping[str, list[str]] | None = None,
    ) -> Timelines:
        plain = ("user_row", "item_row", "label", "timestamp", "part", "order")
        column = {name: rows[name].to_numpy() for name in plain if name in rows.column_names}
        history_NL = context_NK = None
        if "history" in rows.column_names:
            flat = rows["history"].combine_chunks().flatten().to_numpy()
            history_NL = flat.reshape(-1, self.config.history_length)
        if contexts:
            places = [
                pc.index_in(rows[CONTEXT_PREFIX + name], pa.array(values, pa.string()))
                for name, values in contexts.items()
            ]
            codes_KN = [pc.fill_null(place, -1).to_numpy() + 1 for place in places]
            context_NK = np.column_stack(codes_KN).astype(np.int32)
        return timelines(
            rank_N=self.buckets.rank_U[column["user_row"]],
            order_N=column.get("order", column["timestamp"]),
            user_row_N=column["user_row"],
            item_row_N=column["item_row"],
            rating_N=rating_N,
            label_N=column["label"],
            timestamp_N=column["timestamp"],
            part_N=column["part"],
            history_NL=history_NL,
            context_NK=context_NK,
        )

    def _prefixes(self, lines: Timelines) -> NDArray[np.int64]:
        return prefix_lengths(lines.length_U, self.config.prefix_share, self.config.prefix_max)

    def _parts(
        self, lines: Timelines, index_B: NDArray[np.int64], cuts: tuple[int, int] | None
    ) -> NDArray[np.int8]:
        if self.config.split.by == "column":
            return lines.part_N[index_B]
        if cuts is not None:
            return parts_by_time(lines.timestamp_N[index_B], cuts)
        parts = parts_of_users(len(self.user_ids), self.config.split)
        return parts[lines.user_row_N[index_B]]

    @property
    def _scattered(self) -> Path:
        return self.scratch / "scattered"

    @property
    def _past(self) -> Path:
        return self.scratch / "past"


def mentioned_ids(
    files: TableFiles, fragment: Fragment, columns: Sequence[str], max_rows: int
) -> dict[str, list[str]]:
    """The distinct ids in these columns of a fragment."""
    found: dict[str, list[pa.Array]] = {name: [] for name in columns}
    for chunk in files.scan(fragment, columns, max_rows):
        for name in columns:
            found[name].append(pc.unique(parsing.ids(chunk.table[name])))
    return {name: _distinct(arrays).to_pylist() for name, arrays in found.items()}


def _distinct(arrays: Sequence[pa.Array]) -> pa.Array:
    return pc.unique(pa.concat_arrays(arrays)).drop_null() if arrays else pa.array([], pa.null())
