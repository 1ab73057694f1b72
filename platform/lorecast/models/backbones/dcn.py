"""Cross networks: explicit feature crosses beside a deep network.

DCN (Wang et al. 2017) crosses by a vector, DCNv2 (Wang et al. 2021) by a matrix, GDCN (Wang et al.
2023) by a matrix behind a gate. Here they differ in nothing else: the deep and the cross network
stand side by side and a last MLP reads both, as in KAR's code; with `cross.head_hidden: []` a
linear layer does, as DCN and DCNv2 were published.

Shapes: B batch, W = F·E width of all fields in a row, H hidden width.
"""

import torch
from torch import Tensor, nn

from lorecast.config import ModelConfig
from lorecast.models.inputs import FieldCounts, Fields
from lorecast.models.layers import linear, mlp, tower
from lorecast.models.pooled import num_pooled, pooled_fields


class VectorCross(nn.Module):
    """x0 (w·x) + b + x."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = linear(width, 1, bias=False)
        self.bias_W = nn.Parameter(torch.zeros(width))

    def forward(self, start_BW: Tensor, x_BW: Tensor) -> Tensor:
        """The crossed rows, same shape."""
        crossed_BW: Tensor = start_BW * self.weight(x_BW) + self.bias_W + x_BW
        return crossed_BW


class MatrixCross(nn.Module):
    """x0 ∘ (W x + b) + x."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = linear(width, width)

    def forward(self, start_BW: Tensor, x_BW: Tensor) -> Tensor:
        """The crossed rows, same shape."""
        crossed_BW: Tensor = start_BW * self.weight(x_BW) + x_BW
        return crossed_BW


class GatedCross(nn.Module):
    """x0 ∘ (W x + b) ∘ σ(V x) + x."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = linear(width, width)
        self.gate = linear(width, width, bias=False)

    def forward(self, start_BW: Tensor, x_BW: Tensor) -> Tensor:
        """The crossed rows, same shape."""
        crossed_BW: Tensor = start_BW * self.weight(x_BW) * torch.sigmoid(self.gate(x_BW)) + x_BW
        return crossed_BW


class DCN(nn.Module):
    """Logits from crosses and a deep network, side by side."""

    cross_layer: type[nn.Module] = VectorCross

    def __init__(self, config: ModelConfig, counts: FieldCounts) -> None:
        super().__init__()
        width = num_pooled(counts) * counts.dim
        self.cross = nn.ModuleList(self.cross_layer(width) for _ in range(config.cross.layers))
        self.deep = tower(width, config.mlp_hidden, config.dropout)
        both = width + (width, *config.mlp_hidden)[-1]
        hidden = config.cross.head_hidden
        hidden = config.mlp_hidden if hidden is None else hidden
        self.head = mlp(both, hidden, config.dropout)

    def forward(self, fields: Fields) -> Tensor:
        """logit_B."""
        start_BW = crossed_BW = pooled_fields(fields).flatten(1)
        for layer in self.cross:
            crossed_BW = layer(start_BW, crossed_BW)
        both_BH = torch.cat([crossed_BW, self.deep(start_BW, fields.beside_BH)], dim=1)
        logit_B: Tensor = self.head(both_BH).squeeze(1)
        return logit_B


class DCNv2(DCN):
    """DCN that crosses by matrices."""

    cross_layer = MatrixCross


class GDCN(DCN):
    """DCN that crosses by gated matrices."""

    cross_layer = GatedCross
