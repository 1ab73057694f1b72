"""Layers over chunks of knowledge, and their start values.

Shapes: B any number of entities or samples, U distinct entities, S texts, C chunks, F fields of
knowledge, I/O widths, D encoder width, d work width.
"""

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from lorecast.config import KSERConfig, Side
from lorecast.models.knowledge import ChunkVectors, KnowledgeShape, SideKnowledge, sample
from lorecast.models.layers import linear

_SAMPLED_ROWS = 4096
"""Entities a side from which start values are computed."""
_SMALLEST_VARIANCE_SHARE = 1e-4


def centred_sample(vectors: ChunkVectors, side: Side) -> tuple[Tensor, Tensor, Tensor]:
    """(mean_CD, centred_UCD, mask_UC) of a sample of entities: what each chunk's texts have in
    common, and what they have beyond it."""
    vector_UCD, mask_UC = sample(vectors, side, _SAMPLED_ROWS)
    vector_UCD = vector_UCD.float()
    mean_CD = masked_mean(vector_UCD.transpose(0, 1), mask_UC.T)
    return mean_CD, vector_UCD - mean_CD, mask_UC


def masked_mean(chunk_BCI: Tensor, mask_BC: Tensor) -> Tensor:
    """mean_BI of the chunks that are there; 0 where there is none."""
    present_BC = mask_BC.to(chunk_BCI.dtype)
    total_BI = (chunk_BCI * present_BC[:, :, None]).sum(1)
    mean_BI: Tensor = total_BI / present_BC.sum(1, keepdim=True).clamp(min=1)
    return mean_BI


def places(field_C: Sequence[int]) -> list[list[int] | slice]:
    """Where the chunks of each field stand; a slice, which needs no copy, if they adjoin."""
    found: list[list[int] | slice] = []
    for field in range(max(field_C) + 1):
        chunks = [place for place, own in enumerate(field_C) if own == field]
        adjoin = chunks[-1] - chunks[0] + 1 == len(chunks)
        found.append(slice(chunks[0], chunks[-1] + 1) if adjoin else chunks)
    return found


class FieldLinear(nn.Module):
    """A Linear of its own for the chunks of each field."""

    place_C: Tensor

    def __init__(self, inputs: int, outputs: int, field_C: Sequence[int]) -> None:
        super().__init__()
        self._chunks_of_field = places(field_C)
        maps = [linear(inputs, outputs) for _ in self._chunks_of_field]
        self.weight_FIO = nn.Parameter(torch.stack([m.weight.detach().T for m in maps]))
        self.bias_FO = nn.Parameter(torch.zeros(len(maps), outputs))
        place_C = torch.arange(len(field_C))
        order = torch.cat([place_C[chunks] for chunks in self._chunks_of_field])
        self._in_order = bool((order == place_C).all())
        self.register_buffer("place_C", order.argsort(), persistent=False)

    def forward(self, chunk_UCI: Tensor, minus_CI: Tensor | None = None) -> Tensor:
        """chunk_UCO, the map of `chunk_UCI − minus_CI`."""
        parts = []
        for chunks, weight_IO, bias_O in zip(
            self._chunks_of_field, self.weight_FIO, self.bias_FO, strict=True
        ):
            bias_GO = bias_O if minus_CI is None else bias_O - minus_CI[chunks] @ weight_IO
            parts.append(chunk_UCI[:, chunks] @ weight_IO + bias_GO)
        chunk_UCO = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        return chunk_UCO if self._in_order else chunk_UCO[:, self.place_C]


class ChunkProjection(nn.Module):
    """x = LayerNorm(P_f (k − m_c) + b_f) + t_c: stored vectors to the work space.

    m_c is what the chunk's texts have in common, and t_c tells a chunk from the others of its
    entity.
    """

    mean_CD: Tensor

    def __init__(self, dim: int, width: int, field_C: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("mean_CD", torch.zeros(len(field_C), dim))
        self.map = FieldLinear(dim, width, field_C)
        self.norm = nn.LayerNorm(width)
        self.type_Cd = nn.Parameter(torch.empty(len(field_C), width))
        nn.init.normal_(self.type_Cd, std=0.02)

    def forward(self, vector_UCD: Tensor) -> Tensor:
        """chunk_UCd."""
        chunk_UCd: Tensor = self.norm(self.map(vector_UCD, self.mean_CD)) + self.type_Cd
        return chunk_UCd


class Projected(NamedTuple):
    """One side's chunks in the work space, each distinct entity once."""

    chunk_UCd: Tensor
    mask_UC: Tensor


class SideProjections(nn.ModuleDict):
    """A `ChunkProjection` for each side with knowledge, into one work space."""

    def __init__(self, shape: KnowledgeShape, config: KSERConfig) -> None:
        super().__init__()
        self._width = config.dim
        self.fields_of_sides: list[list[int]] = []
        """For each side, the field of each chunk."""
        for side in shape.sides:
            fields = list(dict.fromkeys(chunk.field for chunk in shape.chunks(side)))
            field_C = [fields.index(chunk.field) for chunk in shape.chunks(side)]
            self.fields_of_sides.append(field_C)
            self[side] = ChunkProjection(shape.dim, config.dim, field_C)

    def start_from(self, vectors: ChunkVectors) -> None:
        """Start values that depend on the texts: chunks are centred, and every projection begins
        with the same whitened principal directions, so that equal meanings of both sides lie close.
        """
        centred = []
        for side, project in self._each():
            mean_CD, centred_UCD, mask_UC = centred_sample(vectors, side)
            project.mean_CD.copy_(mean_CD)
            centred.append(centred_UCD[mask_UC])
        direction_Dd = _whitened_directions(torch.cat(centred), self._width)
        with torch.no_grad():
            for _, project in self._each():
                project.map.weight_FIO[:, :, : direction_Dd.shape[1]] = direction_Dd

    def forward(self, side: Side, known: SideKnowledge) -> Projected:
        """The chunks of one side."""
        return Projected(self[side](known.vector_UCD), known.mask_UC)

    def _each(self) -> list[tuple[Side, ChunkProjection]]:
        return [(cast(Side, side), cast(ChunkProjection, own)) for side, own in self.items()]


def _whitened_directions(vector_SD: Tensor, width: int) -> Tensor:
    """The leading principal directions of centred vectors, each scaled to variance 1: [D, O].

    O is `width`, or less where texts vary in fewer directions.
    """
    covariance_DD = (vector_SD.T @ vector_SD).double() / len(vector_SD)
    variance_D, direction_DD = torch.linalg.eigh(covariance_DD)
    kept_D = variance_D > _SMALLEST_VARIANCE_SHARE * variance_D[-1]
    kept_D[:-width] = False
    whitened_DO: Tensor = direction_DD[:, kept_D] / variance_D[kept_D].sqrt()
    return whitened_DO.flip(1).float()
