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

    def __init__(self, keys_N2: NDArray[np.uint64]) -> None:
        """`keys_N2`: keys as `key_numbers` gives them; of equal ones the last counts."""
        high = keys_N2[:, 0]
        # Stable, so that equal keys keep their order and the last of a run is the one that counts.
        order = np.argsort(high, kind="stable")
        self._high, self._low, self._order = high[order], keys_N2[order, 1], order

    def __len__(self) -> int:
        return self._high.size

    def find(self, keys_M2: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The place of each key among those given, -1 if it is not there."""
        high, low = keys_M2[:, 0], keys_M2[:, 1]
        place = np.searchsorted(self._high, high, side="right") - 1
        found = np.full(high.size, -1, np.int64)
        pending = np.arange(high.size)
        while pending.size:
            pending = pending[place[pending] >= 0]
            pending = pending[self._high[place[pending]] == high[pending]]
            at = place[pending]
            hit = self._low[at] == low[pending]
            found[pending[hit]] = self._order[at[hit]]
            # Two keys that share 64 bits: look on to the left.
            pending = pending[~hit]
            place[pending] -= 1
        return found


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
