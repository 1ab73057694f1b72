"""Prompts as sequences of pieces, each tokenized once; token arrays are put together by numpy.

Tokenizing by the piece keeps a prompt the same whatever stands beside it, and costs one call an
item instead of one a row.

Legend: B rows, P pieces of a row, T tokens, V all tokens of a table.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Pieces:
    """Token sequences by number; number 0 is the empty one."""

    token_V: NDArray[np.int64]
    start_N: NDArray[np.int64]
    """Where each begins; one entry more than there are pieces."""

    @classmethod
    def of(cls, sequences: Iterable[Sequence[int]]) -> Self:
        """The sequences, numbered from 1."""
        known = [(), *sequences]
        length_N = np.fromiter(map(len, known), np.int64, len(known))
        tokens = [token for sequence in known for token in sequence]
        return cls(np.asarray(tokens, np.int64), np.concatenate(([0], np.cumsum(length_N))))

    def lengths(self, piece_BP: NDArray[np.integer]) -> NDArray[np.int64]:
        """Tokens of each row, [B]."""
        length_B: NDArray[np.int64] = np.diff(self.start_N)[piece_BP].sum(1)
        return length_B

    def join(
        self, piece_BP: NDArray[np.integer], *, pad_left: bool, padding: int
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Tokens of each row and which of them are no padding: [B, T] each."""
        length_BP = np.diff(self.start_N)[piece_BP]
        length_B = length_BP.sum(1)
        most = int(length_B.max(initial=0))
        places = np.arange(most)
        real_BT = places >= most - length_B[:, None] if pad_left else places < length_B[:, None]
        flat_length = length_BP.ravel()
        before = np.cumsum(flat_length) - flat_length
        source = np.repeat(self.start_N[piece_BP.ravel()] - before, flat_length)
        token_BT = np.full(real_BT.shape, padding, np.int64)
        token_BT[real_BT] = self.token_V[source + np.arange(source.size)]
        return token_BT, real_BT
