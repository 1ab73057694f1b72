"""Layers over chunks of knowledge, and their start values.

Shapes: B any number of entities or samples, U distinct entities, S texts, C chunks, F fields of
knowledge, I/O widths, D encoder width, d work width.
"""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from lorecast.config import Side
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


class FieldLinear(nn.Module):
    """A Linear of its own for the chunks of each field."""

    field_C: Tensor

    def __init__(self, inputs: int, outputs: int, field_C: Sequence[int]) -> None:
        super().__init__()
        maps = [linear(inputs, outputs) for _ in range(max(field_C) + 1)]
        self.weight_FIO = nn.Parameter(torch.stack([m.weight.detach().T for m in maps]))
        self.bias_FO = nn.Parameter(torch.zeros(len(maps), outputs))
        self.register_buffer("field_C", torch.tensor(field_C), persistent=False)

    def forward(self, chunk_BCI: Tensor, minus_CI: Tensor | None = None) -> Tensor:
        """chunk_BCO, the map of `chunk_BCI − minus_CI`."""
        weight_CIO = self.weight_FIO.index_select(0, self.field_C)
        bias_C1O = self.bias_FO.index_select(0, self.field_C)[:, None]
        if minus_CI is not None:
            bias_C1O = bias_C1O - torch.bmm(minus_CI[:, None], weight_CIO)
        return torch.baddbmm(bias_C1O, chunk_BCI.transpose(0, 1), weight_CIO).transpose(0, 1)


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


class SideProjections(nn.ModuleDict):
    """A `ChunkProjection` for each side with knowledge, into one work space."""

    def __init__(self, shape: KnowledgeShape, width: int) -> None:
        super().__init__()
        self._width = width
        for side in shape.sides:
            fields = list(dict.fromkeys(chunk.field for chunk in shape.chunks(side)))
            field_C = [fields.index(chunk.field) for chunk in shape.chunks(side)]
            self[side] = ChunkProjection(shape.dim, width, field_C)

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

    def forward(self, knowledge: Mapping[Side, SideKnowledge]) -> tuple[Tensor, Tensor]:
        """(chunk_BCd, mask_BC) of both sides in a row, projected once a distinct entity."""
        chunks, masks = [], []
        for side, project in self._each():
            known = knowledge[side]
            chunks.append(project(known.vector_UCD).index_select(0, known.entity_B))
            masks.append(known.mask_UC.index_select(0, known.entity_B))
        return torch.cat(chunks, dim=1), torch.cat(masks, dim=1)

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
