"""Vectors kept by text: an encoder meets a text once in a workspace, whichever table it is for.

    workspace/encode/.vectors/<encoder>/part-<digest of its keys>.parquet
        key       16 bytes, BLAKE2b of the text in UTF-8
        vector    float16 [D] as bytes, what the encoder returned

Parts appear whole and do not change, so encodings may run side by side and a killed one leaves
nothing half-done. In a workspace on object storage they lie there, too. Legend: S distinct texts, K
stored ones of them, M texts of a block, T lines of all parts, D encoder width.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lorecast import remote
from lorecast.artifacts import fingerprint
from lorecast.config import EncodingConfig
from lorecast.encoding.encoder import EncoderModel
from lorecast.encoding.vectors import STAGE
from lorecast.errors import EncodingError
from lorecast.knowledge.keys import KeyIndex, sort_keys

_FOLDER: Final = ".vectors"
_PARTS: Final = "part-*.parquet"
_KEY: Final = np.dtype("<u8")
_VECTOR: Final = np.dtype("<f2")
_ABSENT: Final = np.iinfo(np.int64).max


@dataclass(frozen=True)
class VectorStore:
    """The vectors of one encoder; the folder need not exist yet."""

    folder: Path

    @classmethod
    def of(cls, workspace: Path, model: EncoderModel, encoding: EncodingConfig) -> Self:
        """The store of all that decides a vector; which texts and how many components do not."""
        identity = encoding.identity() | {"model": model.digest}
        decisive = {
            name: value for name, value in identity.items() if name not in ("where", "components")
        }
        return cls(workspace / STAGE / _FOLDER / fingerprint(decisive))

    def append(self, key_M2: NDArray[np.uint64], vector_MD: NDArray[np.float16]) -> None:
        """Adds the vectors of M texts as one part; atomic. A key that is there already may come
        again.

        Raises EncodingError if the part cannot be written (disk full, no permission).
        """
        keys = key_M2.astype(_KEY)
        digest = hashlib.blake2b(keys.tobytes(), digest_size=12).hexdigest()
        path = self.folder / f"part-{digest}.parquet"
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        part = pa.table({"key": _as_bytes(keys), "vector": _as_bytes(vector_MD.astype(_VECTOR))})
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            pq.write_table(
                part,
                partial,
                compression="none",
                use_dictionary=False,
                write_statistics=False,
                write_page_checksum=True,
            )
            partial.replace(path)
        except OSError as error:
            with suppress(OSError):
                partial.unlink()
            raise EncodingError(
                f"{self.folder} cannot take more vectors ({error.strerror or error}); make room "
                "or set compute.workspace, then run again: nothing encoded is lost"
            ) from error
        remote.upload(path)

    def sort(self, texts: pa.Array) -> "SortedTexts":
        """Finds distinct texts among what is stored now. Raises EncodingError for a damaged part.

        Takes some 40 bytes a stored vector in memory.
        """
        remote.share(self.folder, _PARTS)
        parts = sorted(self.folder.glob(_PARTS))
        keys = [_column(part, "key", _KEY) for part in parts]
        high_T, low_T = np.concatenate([np.empty((0, 2), _KEY), *keys]).T
        line_T = sort_keys(high_T, low_T, np.ones(high_T.size, bool))
        key_S2 = text_keys(texts)
        found_S = KeyIndex(high_T[line_T], low_T[line_T]).find(key_S2)
        is_stored_S = found_S >= 0
        line_S = np.full(len(texts), _ABSENT)
        line_S[is_stored_S] = line_T[found_S[is_stored_S]]
        order_S = np.argsort(line_S, kind="stable")
        place_S = np.empty_like(order_S)
        place_S[order_S] = np.arange(order_S.size)
        return SortedTexts(
            texts=texts.take(pa.array(order_S)),
            key_S2=key_S2[order_S],
            place_S=place_S,
            line_K=line_S[order_S][: np.count_nonzero(is_stored_S)],
            parts=parts,
            starts=np.cumsum([0, *map(len, keys)]),
        )


@dataclass(frozen=True, kw_only=True)
class SortedTexts:
    """Distinct texts, those with stored vectors first, in the order in which these lie."""

    texts: pa.Array
    key_S2: NDArray[np.uint64]
    place_S: NDArray[np.int64]
    """For each text as it was given, its place in this order."""
    line_K: NDArray[np.int64]
    """For each stored text, its line in the parts put one after the other."""
    parts: Sequence[Path]
    starts: NDArray[np.int64]
    """The line at which each part begins, and the end of the last."""

    @property
    def num_stored(self) -> int:
        return self.line_K.size

    def stored(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float16]]]:
        """Places and vectors of the stored texts, part by part: [M] and [M, D].

        Raises EncodingError for a damaged part.
        """
        part_K = np.searchsorted(self.starts, self.line_K, side="right") - 1
        for number in np.unique(part_K):
            first, last = np.searchsorted(part_K, (number, number + 1))
            vectors = _column(self.parts[number], "vector", _VECTOR)
            yield np.arange(first, last), vectors[self.line_K[first:last] - self.starts[number]]


def text_keys(texts: pa.Array) -> NDArray[np.uint64]:
    """The keys of texts as pairs of integers: [S, 2]."""
    values = texts.cast(pa.binary()).to_pylist()
    digests = [hashlib.blake2b(value, digest_size=16).digest() for value in values]
    return np.frombuffer(b"".join(digests), _KEY).reshape(-1, 2)


def _as_bytes(rows: NDArray[Any]) -> pa.Array:
    """Each row of a matrix as one value."""
    width = rows.shape[1] * rows.itemsize
    buffer = pa.py_buffer(np.ascontiguousarray(rows))
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(rows), [None, buffer])


def _column(part: Path, name: str, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The matrix behind a column made by `_as_bytes`."""
    with _damage_named(part), pq.ParquetFile(part, page_checksum_verification=True) as file:
        column = file.read(columns=[name], use_threads=False)[name].combine_chunks()
    width = column.type.byte_width // dtype.itemsize
    return np.frombuffer(column.buffers()[1], dtype, len(column) * width).reshape(-1, width)


@contextmanager
def _damage_named(part: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowInvalid, OSError) as error:
        reason = " ".join(str(error).split())
        raise EncodingError(
            f"{part} is damaged; delete it and run again, only its texts are encoded anew "
            f"({reason[:300]})"
        ) from error
