"""The knowledge store: every answer ever paid for, append-only Parquet, keyed by content.

    workspace/knowledge/part-<digest of its keys>.parquet

A key is a digest of all that decides an answer (`keys.KeyMaker`), so a run asks for wanted minus
stored keys. A part is named by its keys and appears whole: writing it a second time changes
nothing, and a killed writer leaves nothing half-done. Failed rows are kept with their reason; they
do not count as stored, so the next run that wants them asks again. In a workspace on object storage
every part goes there as it is written, and comes from there before it is looked for.
"""

import fcntl
import hashlib
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lorecast import remote
from lorecast.errors import KnowledgeError
from lorecast.knowledge.answers import RETRIED
from lorecast.knowledge.keys import KeyIndex, key_numbers, sort_keys
from lorecast.remote import Twin

FOLDER: Final = "knowledge"
"""Name of the store below the workspace."""
SCHEMA: Final = pa.schema(
    [
        ("key", pa.string()),
        ("side", pa.string()),
        ("id", pa.string()),
        ("field", pa.string()),
        ("factor", pa.string()),
        ("text", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("prompt_tokens", pa.int32()),
        ("output_tokens", pa.int32()),
        ("history_end", pa.int32()),
        ("model", pa.string()),
        ("run_id", pa.string()),
        ("time", pa.timestamp("us", "UTC")),
        ("certainty", pa.float32()),
    ]
)
"""certainty: see `rows.SCHEMA`; parts of older versions lack it, and read as null."""
_RETRIED: Final = pa.array(sorted(RETRIED))
_PARTS: Final = "part-*.parquet"
_CACHE_BYTES: Final = 4 << 20
_BEGINNING: Final = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class KnowledgeStore:
    """The parts in one folder, which need not exist yet."""

    folder: Path

    def path_of(self, keys: Sequence[str]) -> Path:
        """Where the part with exactly these keys lies, or will lie."""
        digest = hashlib.blake2b("".join(keys).encode(), digest_size=12).hexdigest()
        return self.folder / f"part-{digest}.parquet"

    def append(self, rows: pa.Table) -> Path:
        """Adds rows of SCHEMA as one part and returns its path; atomic, and idempotent by keys.

        Raises KnowledgeError if the part cannot be written (disk full, no permission).
        """
        path = self.path_of(rows["key"].to_pylist())
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            pq.write_table(rows.cast(SCHEMA), partial, compression="zstd")
            partial.replace(path)
        except OSError as error:
            with suppress(OSError):
                partial.unlink()
            raise KnowledgeError(
                f"{self.folder} cannot take more answers ({error.strerror or error}); make room "
                "or set compute.workspace, then run again: nothing stored is lost"
            ) from error
        remote.upload(path)
        return path

    def index(self) -> "StoreIndex":
        """What is stored now. Raises KnowledgeError for a damaged part."""
        remote.share(self.folder, _PARTS)
        return StoreIndex(self._parts())

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Holds off `compact` in other processes. Raises KnowledgeError while one is at work."""
        with self._locked(fcntl.LOCK_SH, "is being compacted; try again when that is done"):
            yield

    def compact(self, rows_per_part: int = 100_000) -> int:
        """Rewrites the parts as few large ones and returns how many were replaced.

        Failures that were answered later are dropped. New parts are written before old ones go, so
        a crash leaves rows twice and none missing. Raises KnowledgeError if the store is in use, or
        on object storage, where nothing holds off other machines.
        """
        if (twin := Twin.of(self.folder)) is not None:
            raise KnowledgeError(
                f"{twin} cannot be compacted: runs on other machines may be reading it; compact "
                "a store in a folder"
            )
        with self._locked(fcntl.LOCK_EX, "is in use by another run; compact it afterwards"):
            return self._compact(rows_per_part)

    def _compact(self, rows_per_part: int) -> int:
        old = self._parts()
        index = StoreIndex(old)
        pending: list[pa.Table] = []
        written: set[Path] = set()
        for table in chain(index.tables(), [None]):
            if table is not None:
                pending.append(table)
            num_rows = sum(part.num_rows for part in pending)
            if num_rows >= rows_per_part or (table is None and num_rows):
                written.add(self.append(pa.concat_tables(pending)))
                pending = []
        for part in set(old) - written:
            part.unlink()
        return len(set(old) - written)

    @contextmanager
    def _locked(self, kind: int, otherwise: str) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as stream:
            try:
                fcntl.flock(stream, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                raise KnowledgeError(f"{self.folder} {otherwise}") from None
            yield

    def _parts(self) -> list[Path]:
        # Listed here, since Arrow's own listing would take files in the making.
        return sorted(self.folder.glob(_PARTS))


class StoreIndex:
    """The answers of some parts by key: about 20 bytes an answer, texts stay on disk.

    Of rows with the same key an answer wins over a failure, and then the later one.
    """

    def __init__(self, parts: Sequence[Path]) -> None:
        # Later parts come later, since of equal keys the last counts.
        self._parts = sorted(parts, key=_last_time)
        total = sum(_metadata(part).num_rows for part in self._parts)
        high, low = np.empty(total, np.uint64), np.empty(total, np.uint64)
        is_answered = np.empty(total, bool)
        self._starts = np.zeros(len(self._parts) + 1, np.int64)
        stop = 0
        for number, part in enumerate(self._parts):
            table = _read(part, ["key", "status"])
            start, stop = stop, stop + table.num_rows
            self._starts[number + 1] = stop
            high[start:stop], low[start:stop] = key_numbers(table["key"]).T
            is_answered[start:stop] = ~pc.is_in(table["status"], value_set=_RETRIED).to_numpy()
        self._line = sort_keys(high, low, is_answered)
        # One after the other, for the sake of memory.
        high = high[self._line]
        low = low[self._line]
        self._keys = KeyIndex(high, low)
        self._is_answered = is_answered[self._line]
        self._cache: OrderedDict[int, pa.Table] = OrderedDict()
        self._cached_bytes = 0

    def is_answered(self, keys: pa.Array) -> NDArray[np.bool_]:
        """Whether each key need not be asked again; failures do not count."""
        place = self._keys.find(key_numbers(keys))
        return (place >= 0) & self._is_answered[place] if len(self._keys) else place >= 0

    def fetch(self, keys: pa.Array) -> pa.Table:
        """The rows of `keys`, in their order; all must be stored."""
        if len(keys) == 0:
            return SCHEMA.empty_table()
        place = self._keys.find(key_numbers(keys))
        assert place.min() >= 0, "a key was fetched that is not stored"
        part, line = self._split(place)
        order = np.argsort(part, kind="stable")
        starts = np.flatnonzero(np.diff(part[order], prepend=-1))
        taken = [
            self._table(int(part[lines[0]])).take(pa.array(line[lines]))
            for lines in np.split(order, starts[1:])
        ]
        back = np.empty_like(order)
        back[order] = np.arange(order.size)
        return pa.concat_tables(taken).take(pa.array(back))

    def tables(self) -> Iterator[pa.Table]:
        """The rows that win, part by part."""
        for number, part in enumerate(self._parts):
            table = _read(part, SCHEMA.names)
            winner, line = self._split(self._keys.find(key_numbers(table["key"])))
            wins = (winner == number) & (line == np.arange(table.num_rows))
            yield table.filter(pa.array(wins))

    def _split(self, place: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(number of the part, line in it) of places in the index."""
        line = self._line[place].astype(np.int64)
        part = np.searchsorted(self._starts, line, side="right") - 1
        return part, line - self._starts[part]

    def _table(self, number: int) -> pa.Table:
        if number not in self._cache:
            self._cache[number] = _read(self._parts[number], SCHEMA.names)
            self._cached_bytes += self._cache[number].nbytes
            while len(self._cache) > 1 and self._cached_bytes > _CACHE_BYTES:
                _, oldest = self._cache.popitem(last=False)
                self._cached_bytes -= oldest.nbytes
        self._cache.move_to_end(number)
        return self._cache[number]


def _last_time(part: Path) -> datetime:
    """When the newest row of a part was written, from its statistics."""
    metadata = _metadata(part)
    column = metadata.schema.to_arrow_schema().get_field_index("time")
    groups = (metadata.row_group(number) for number in range(metadata.num_row_groups))
    return max((group.column(column).statistics.max for group in groups), default=_BEGINNING)


def _metadata(part: Path) -> pq.FileMetaData:
    with _damage_named(part):
        return pq.read_metadata(part)


def _read(part: Path, columns: list[str]) -> pa.Table:
    with _damage_named(part), pq.ParquetFile(part) as file:
        # Threads would keep memory of their own, for parts this small to no avail.
        table = file.read(columns=columns, use_threads=False)
    if "certainty" in columns and "certainty" not in table.column_names:
        table = table.append_column("certainty", pa.nulls(table.num_rows, pa.float32()))
    return table.select(columns)


@contextmanager
def _damage_named(part: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowInvalid, OSError) as error:
        reason = " ".join(str(error).split())
        raise KnowledgeError(
            f"{part} is damaged; delete it and run again, only its answers are asked anew "
            f"({reason[:300]})"
        ) from error
