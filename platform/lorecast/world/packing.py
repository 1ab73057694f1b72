"""Chats that begin alike, trained as one: the common beginning is computed once.

Seven questions about one viewer share the list of titles. Such a *tree* has a trunk (the common
tokens) and branches (the rest of each chat); a branch sees the trunk and itself, at the positions
it would have alone. The loss is that of the separate chats, for about a third of the tokens.
Trees are laid one after another into rows of fixed length; they do not see each other.

Shapes: B rows, T tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

IGNORED = -100
"""The label of a token that is not learned."""


@dataclass(frozen=True)
class TokenizedChat:
    """Tokens of a chat; the last `num_answer` of them are the answer."""

    tokens: tuple[int, ...]
    num_answer: int


@dataclass(frozen=True)
class PackedBatch:
    """Rows of trees, ready for a causal model that takes an explicit mask."""

    token_BT: torch.Tensor
    position_BT: torch.Tensor
    label_BT: torch.Tensor
    """The token itself where it belongs to an answer, IGNORED elsewhere."""
    mask_B1TT: torch.Tensor
    """Added to attention scores: 0 where the first token may see the second, else very low."""


def pack(trees: Sequence[Sequence[TokenizedChat]]) -> PackedBatch:
    """Lays trees of chats into rows as long as the longest tree. Padding sees only itself."""
    laid = sorted((_Laid.of(tree) for tree in trees), key=lambda tree: tree.token.size)
    row_length = laid[-1].token.size
    row_of, start_of = _place([tree.token.size for tree in laid], row_length)
    shape = (row_of[-1] + 1, row_length)
    token, position = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    label = np.full(shape, IGNORED, np.int64)
    branch = np.full(shape, -1, np.int64)
    trunk = np.full(shape, -1, np.int64)
    num_segments = 0
    for tree, row, start in zip(laid, row_of, start_of, strict=True):
        here = (row, slice(start, start + tree.token.size))
        token[here], position[here], label[here] = tree.token, tree.position, tree.label
        branch[here], trunk[here] = num_segments + tree.branch, num_segments
        num_segments += int(tree.branch[-1]) + 1
    own = branch[:, :, None] == branch[:, None, :]
    beginning = trunk[:, :, None] == branch[:, None, :]
    is_real = branch[:, None, :] >= 0
    mask = np.tril(np.ones((row_length, row_length), bool)) & (own | beginning) & is_real
    mask |= np.eye(row_length, dtype=bool)
    score = np.where(mask, np.float32(0), np.float32(-1e9))
    return PackedBatch(
        torch.from_numpy(token),
        torch.from_numpy(position),
        torch.from_numpy(label),
        torch.from_numpy(score[:, None]),
    )


@dataclass(frozen=True)
class _Laid:
    """One tree as flat arrays; branch 0 is the trunk."""

    token: np.ndarray
    position: np.ndarray
    label: np.ndarray
    branch: np.ndarray

    @classmethod
    def of(cls, tree: Sequence[TokenizedChat]) -> "_Laid":
        num_common = _num_common(tree)
        tails = [chat.tokens[num_common:] for chat in tree]
        lengths = np.asarray([num_common, *map(len, tails)])
        token = np.concatenate([tree[0].tokens[:num_common], *tails]).astype(np.int64)
        branch = np.repeat(np.arange(lengths.size), lengths)
        offset = (lengths.cumsum() - lengths)[branch]
        within = np.arange(token.size) - offset
        position = within + np.where(branch > 0, num_common, 0)
        num_answer = np.asarray([0, *(chat.num_answer for chat in tree)])
        is_answer = within >= (lengths - num_answer)[branch]
        return cls(token, position, np.where(is_answer, token, IGNORED), branch)


def _num_common(tree: Sequence[TokenizedChat]) -> int:
    """Tokens with which all chats begin, never reaching into a chat's last question token.

    The token before the answer predicts its beginning, so it must lie in the branch.
    """
    limit = min(len(chat.tokens) - chat.num_answer - 1 for chat in tree)
    heads = np.asarray([chat.tokens[:limit] for chat in tree])
    differs = (heads != heads[0]).any(axis=0)
    return int(differs.argmax()) if differs.any() else limit


def _place(sizes: Sequence[int], row_length: int) -> tuple[list[int], list[int]]:
    rows, starts, row, start = [], [], 0, 0
    for size in sizes:
        if start + size > row_length:
            row, start = row + 1, 0
        rows.append(row)
        starts.append(start)
        start += size
    return rows, starts
