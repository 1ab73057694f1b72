"""Layers over chunks of knowledge.

Shapes: B any number of entities or samples, C chunks, F fields of knowledge, I/O widths, D encoder
width, d work width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lorecast.models.layers import linear


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
