"""Knowledge as models see it: its shape, and the stored vectors of a batch's users and items.

Shapes: B batch, U distinct users or items of it, C chunks, D encoder width.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lorecast.config import Side
from lorecast.models.inputs import Batch

SIDES: tuple[Side, Side] = ("item", "user")
"""Order of the sides wherever their chunks stand in a row."""


class Chunk(NamedTuple):
    """A place in an entity's knowledge: one factor of one field."""

    field: str
    factor: str


@dataclass(frozen=True, kw_only=True)
class KnowledgeShape:
    """Which chunks each side has, and how wide their vectors are."""

    dim: int
    item_chunks: tuple[Chunk, ...] = field(default=())
    user_chunks: tuple[Chunk, ...] = field(default=())

    def chunks(self, side: Side) -> tuple[Chunk, ...]:
        """The chunks of one side, in the order of its vectors."""
        return self.item_chunks if side == "item" else self.user_chunks

    @property
    def sides(self) -> tuple[Side, ...]:
        """The sides that have knowledge."""
        return tuple(side for side in SIDES if self.chunks(side))

    @property
    def all_chunks(self) -> tuple[tuple[Side, Chunk], ...]:
        """Every chunk with its side: the order of C where sides stand in a row."""
        return tuple((side, chunk) for side in self.sides for chunk in self.chunks(side))

    def to_dict(self) -> dict[str, Any]:
        """Plain values; `from_dict` reads them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The shape that `to_dict` wrote."""
        sides = {
            key: tuple(Chunk(*chunk) for chunk in values[key])
            for key in ("item_chunks", "user_chunks")
        }
        return cls(dim=values["dim"], **sides)


class ChunkVectors(Protocol):
    """A store of vectors by row, such as the vectors table; arrays may be memory-mapped."""

    def vectors(self, side: Side) -> NDArray[np.float16]:
        """[rows + 1, C, D]."""

    def mask(self, side: Side) -> NDArray[np.bool_]:
        """[rows + 1, C], True where there is a text."""

    def certainty(self, side: Side) -> NDArray[np.float16] | None:
        """[rows + 1, C], how sure their writer was (see `encoding.certainty`); None if no text
        says."""


@dataclass(frozen=True)
class _Held:
    """A store of vectors in memory."""

    arrays: Mapping[Side, NDArray[np.float16]]
    masks: Mapping[Side, NDArray[np.bool_]]
    certainties: Mapping[Side, NDArray[np.float16] | None]

    def vectors(self, side: Side) -> NDArray[np.float16]:
        return self.arrays[side]

    def mask(self, side: Side) -> NDArray[np.bool_]:
        return self.masks[side]

    def certainty(self, side: Side) -> NDArray[np.float16] | None:
        return self.certainties[side]


def shuffled(vectors: ChunkVectors, sides: Iterable[Side], seed: int = 0) -> ChunkVectors:
    """The control of a gain by knowledge: a copy in memory in which every entity has the texts of
    another one, drawn by `seed`; row 0 keeps its place."""
    rng = np.random.default_rng(seed)
    arrays: dict[Side, NDArray[np.float16]] = {}
    masks: dict[Side, NDArray[np.bool_]] = {}
    certainties: dict[Side, NDArray[np.float16] | None] = {}
    for side in sides:
        mask, certainty = vectors.mask(side), vectors.certainty(side)
        order = np.concatenate([[0], 1 + rng.permutation(len(mask) - 1)])
        arrays[side], masks[side] = vectors.vectors(side)[order], mask[order]
        certainties[side] = None if certainty is None else certainty[order]
    return _Held(arrays, masks, certainties)


def sample(vectors: ChunkVectors, side: Side, num_rows: int) -> tuple[Tensor, Tensor]:
    """(vector_UCD, mask_UC) of at most `num_rows` entities, evenly spaced over the rows."""
    last = len(vectors.mask(side)) - 1
    place_U = np.unique(np.linspace(1, last, num_rows).astype(np.int64))
    return _read(vectors, side, place_U)


class SideKnowledge(NamedTuple):
    """One side's knowledge of a batch, each distinct entity once."""

    vector_UCD: Tensor
    mask_UC: Tensor
    entity_B: Tensor
    """For each sample, its entity's place in U."""
    certainty_UC: Tensor | None = None
    """See `ChunkVectors.certainty`."""


class SideMeans(NamedTuple):
    """One side's knowledge of a batch, each distinct entity once, its texts averaged."""

    mean_UD: Tensor
    """Of the vectors as they are stored; zeros where there is no text."""
    mask_UC: Tensor
    entity_B: Tensor
    """For each sample, its entity's place in U."""


@dataclass(frozen=True)
class EntityMeans:
    """Every entity's mean of its texts on one side, held in memory: what is read of a batch is C
    times smaller than the texts' vectors."""

    mean: NDArray[np.float32]
    """[rows + 1, D]."""
    mask: NDArray[np.bool_]
    """[rows + 1, C]."""

    @classmethod
    def of(cls, vectors: ChunkVectors, side: Side) -> Self | None:
        """Reads the side's whole table; None if the means would fill more than 1 GiB."""
        table, mask = vectors.vectors(side), vectors.mask(side)
        num_rows, _, dim = table.shape
        if num_rows * dim * 4 > _HELD_BYTES:
            return None
        mean = np.empty((num_rows, dim), np.float32)
        for start in range(0, num_rows, _ROWS_A_BLOCK):
            block = slice(start, start + _ROWS_A_BLOCK)
            share = mask[block] / np.maximum(mask[block].sum(1, keepdims=True), 1)
            mean[block] = np.matmul(share[:, None], table[block], dtype=np.float32)[:, 0]
        return cls(mean, mask)

    def gather(self, row_B: Tensor) -> SideMeans:
        """Reads these rows, each distinct row once."""
        row_U, entity_B = torch.unique(row_B, return_inverse=True)
        place_U = row_U.cpu().numpy()
        mean_UD, mask_UC = (
            torch.from_numpy(table.take(place_U, axis=0)).to(row_U.device)
            for table in (self.mean, self.mask)
        )
        return SideMeans(mean_UD, mask_UC, entity_B)


_HELD_BYTES = 1 << 30
_ROWS_A_BLOCK = 4096


def gather(vectors: ChunkVectors, shape: KnowledgeShape, batch: Batch) -> dict[Side, SideKnowledge]:
    """Reads the batch's rows of the tables, each distinct row once."""
    rows = {"item": batch.item_row_B, "user": batch.user_row_B}
    return {side: gather_side(vectors, side, rows[side]) for side in shape.sides}


def gather_side(vectors: ChunkVectors, side: Side, row_B: Tensor) -> SideKnowledge:
    """Reads these rows of one side's table, each distinct row once."""
    row_U, entity_B = torch.unique(row_B, return_inverse=True)
    place_U, device = row_U.cpu().numpy(), row_U.device
    vector_UCD, mask_UC = _read(vectors, side, place_U)
    certainty_UC = None
    if (certainty := vectors.certainty(side)) is not None:
        certainty_UC = torch.from_numpy(certainty.take(place_U, axis=0)).to(device).float()
    return SideKnowledge(vector_UCD.to(device).float(), mask_UC.to(device), entity_B, certainty_UC)


def _read(vectors: ChunkVectors, side: Side, row_U: NDArray[np.integer]) -> tuple[Tensor, Tensor]:
    """(vector_UCD, mask_UC), as stored."""
    vector_UCD = torch.from_numpy(vectors.vectors(side).take(row_U, axis=0))
    return vector_UCD, torch.from_numpy(vectors.mask(side).take(row_U, axis=0))
