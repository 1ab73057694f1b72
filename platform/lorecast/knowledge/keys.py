"""Keys of answers: digests of all that decides one, and exact look-up among millions of them."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lorecast.knowledge.engine import Chat

KEY_DIGITS: Final = 32

_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


def chat_json(chat: Chat) -> str:
    """The chat as canonical JSON: what a key digests, and what travels to the engine."""
    return _encode(list(chat))


class KeyMaker:
    """Keys of one model with one sampling."""

    def __init__(self, model: str, sampling: Mapping[str, Any]) -> None:
        """`model` is a digest of the weights, or of hub name and revision."""
        self._base = hashlib.blake2b(_encode([model, sampling]).encode(), digest_size=16)

    def key(
        self,
        *,
        side: str,
        entity_id: str,
        field: str,
        factor: str,
        history_end: int | None,
        chat: str,
        schema: str | None = None,
    ) -> str:
        """32 hex digits. The chat (`chat_json`) carries template, wording and shown history."""
        about = _encode([side, entity_id, field, factor, history_end])
        digest = self._base.copy()
        digest.update(f"{about[:-1]},{chat}{'' if schema is None else schema}]".encode())
        return digest.hexdigest()


class KeyIndex:
    """Finds keys by binary search; 16 bytes a key, where a hash table would take some 100."""

    def __init__(self, high_N: NDArray[np.uint64], low_N: NDArray[np.uint64]) -> None:
        """The halves of keys (`key_numbers`) in the order of `sort_keys`; of equal ones the last
        counts."""
        self._high, self._low = high_N, low_N

    def __len__(self) -> int:
        return self._high.size

    def find(self, keys_M2: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The place of each key among those given, -1 if it is not there."""
        high, low = keys_M2.T
        place = np.searchsorted(self._high, high, side="right") - 1
        found = np.full(high.size, -1, np.int64)
        pending = np.arange(high.size)
        while pending.size:
            pending = pending[place[pending] >= 0]
            pending = pending[self._high[place[pending]] == high[pending]]
            hit = self._low[place[pending]] == low[pending]
            found[pending[hit]] = place[pending[hit]]
            # Two keys that share 64 bits: look on to the left.
            pending = pending[~hit]
            place[pending] -= 1
        return found


def sort_keys(
    high_N: NDArray[np.uint64], low_N: NDArray[np.uint64], wins_N: NDArray[np.bool_]
) -> NDArray[np.uint32]:
    """The order that sorts keys for a `KeyIndex`; of equal ones those that win come last, and
    among them the later."""
    assert high_N.size < 2**32, "places fit into four bytes"
    order = np.argsort(high_N, kind="stable").astype(np.uint32)
    sorted_high = high_N[order]
    same = sorted_high[1:] == sorted_high[:-1]
    # Few share their first half, mostly keys that were asked again.
    tied = np.flatnonzero(np.append(same, False) | np.insert(same, 0, False))
    of_tied = order[tied]
    ranks = (of_tied, wins_N[of_tied], low_N[of_tied], sorted_high[tied])
    order[tied] = of_tied[np.lexsort(ranks)]
    return order


def key_numbers(keys: pa.Array) -> NDArray[np.uint64]:
    """Keys (32 hex digits each) as pairs of integers: [N, 2]."""
    if isinstance(keys, pa.ChunkedArray):
        keys = keys.combine_chunks()
    if len(keys) == 0:
        return np.empty((0, 2), np.uint64)
    offsets = np.frombuffer(keys.buffers()[1], np.int32)[keys.offset : keys.offset + len(keys) + 1]
    digits = keys.buffers()[2][int(offsets[0]) : int(offsets[-1])].to_pybytes()
    assert len(digits) == KEY_DIGITS * len(keys), "keys have 32 digits"
    numbers: NDArray[np.uint64] = np.frombuffer(bytes.fromhex(digits.decode()), ">u8").astype("u8")
    return numbers.reshape(-1, 2)
