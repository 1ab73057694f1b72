"""The knowledge store: every answer ever paid for, append-only Parquet, keyed by content.

    workspace/knowledge/part-<digest of its keys>.parquet

A key is a digest of all that decides an answer (`KeyMaker`), so a run asks for wanted minus stored
keys. A part is named by its keys and appears whole: writing it a second time changes nothing, and
a killed writer leaves nothing half-done. Failed rows are kept with their reason; they do not count
as stored, so the next run that wants them asks again.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from lorecast.errors import KnowledgeError
from lorecast.knowledge.engine import Chat

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
    ]
)


class KeyMaker:
    """Keys of one model with one sampling."""

    def __init__(self, model: str, sampling: Mapping[str, Any]) -> None:
        """`model` is a digest of the weights, or hub name and revision."""
        self._base = hashlib.blake2b(_canonical([model, sampling]), digest_size=16)

    def key(
        self,
        *,
        side: str,
        entity_id: str,
        field: str,
        factor: str,
        history_end: int | None,
        chat: Chat,
    ) -> str:
        """32 hex digits. The chat carries template, wording and the history that is shown."""
        digest = self._base.copy()
        digest.update(_canonical([side, entity_id, field, factor, history_end, list(chat)]))
        return digest.hexdigest()


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


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
        return path

    def answered_keys(self) -> pa.StringArray:
        """Keys that need not be asked again."""
        table = self._read(["key", "status"])
        return table.filter(pc.not_equal(table["status"], "failed"))["key"].combine_chunks()

    def fetch(self, keys: pa.Array) -> pa.Table:
        """The rows of `keys`, in their order; all must be stored. Failed ones yield to answers."""
        table = self._read(SCHEMA.names)
        place = pc.index_in(table["key"], value_set=keys).combine_chunks()
        found = np.flatnonzero(place.is_valid().to_numpy(zero_copy_only=False))
        rows = table.take(pa.array(found))
        answered = pc.not_equal(rows["status"], "failed").to_numpy()
        # Later assignments win: failures first, then by age.
        order = np.lexsort((rows["time"].to_numpy(), answered))
        row_of_key = np.full(len(keys), -1)
        row_of_key[place.take(pa.array(found)).to_numpy()[order]] = order
        assert row_of_key.min(initial=0) >= 0, "a key was fetched that is not stored"
        return rows.take(pa.array(row_of_key))

    def _read(self, columns: list[str]) -> pa.Table:
        # Parts are listed here, since Arrow's own listing would take files in the making.
        parts = [str(part) for part in sorted(self.folder.glob("part-*.parquet"))]
        if not parts:
            return SCHEMA.empty_table().select(columns)
        try:
            return pads.dataset(parts, schema=SCHEMA, format="parquet").to_table(columns=columns)
        except (pa.ArrowInvalid, OSError) as error:
            reason = " ".join(str(error).split())
            raise KnowledgeError(
                f"{self.folder} has a damaged part; delete it and run again, only its answers "
                f"are asked anew ({reason[:300]})"
            ) from error
