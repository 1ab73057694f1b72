"""xDeepFM: crosses of whole fields, compressed layer by layer, beside an MLP (Lian et al. 2018).

Shapes: B batch, F fields, H feature maps of a layer (F before the first), O of the next,
P = H·F pairs, E embedding width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from lorecast.config import ModelConfig
from lorecast.models.inputs import FieldCounts, Fields
from lorecast.models.layers import linear, tower
from lorecast.models.pooled import num_pooled, pooled_fields


class XDeepFM(nn.Module):
    """Logits from compressed crosses and a deep network; no linear part."""

    def __init__(self, config: ModelConfig, counts: FieldCounts) -> None:
        super().__init__()
        num_fields = num_pooled(counts)
        width = num_fields * counts.dim
        self.cross = CompressedInteraction(num_fields, config.xdeepfm.maps)
        self.deep = tower(width, config.mlp_hidden, config.dropout)
        both = sum(config.xdeepfm.maps) + (width, *config.mlp_hidden)[-1]
        self.head = linear(both, 1)

    def forward(self, fields: Fields) -> Tensor:
        """logit_B."""
        field_BFE = pooled_fields(fields)
        deep_BH = self.deep(field_BFE.flatten(1), fields.beside_BH)
        both_BK = torch.cat([self.cross(field_BFE), deep_BH], dim=1)
        logit_B: Tensor = self.head(both_BK).squeeze(1)
        return logit_B


class CompressedInteraction(nn.Module):
    """CIN: a layer's maps are weighed sums of (a map of the layer before) ∘ (a field), read out by
    their sums over E.

    Summing over E first gives the same sums from inner products, so the last layer's maps, and
    the tensor of all their pairs, are never made.
    """

    def __init__(self, num_fields: int, maps: Sequence[int]) -> None:
        super().__init__()
        inputs = [num_fields, *maps[:-1]]
        self.weights_OP = nn.ParameterList(
            linear(before * num_fields, after, bias=False).weight
            for before, after in zip(inputs, maps, strict=True)
        )

    def forward(self, field_BFE: Tensor) -> Tensor:
        """One number a feature map, all layers in a row."""
        maps_BHE, sums = field_BFE, []
        for depth, weight_OP in enumerate(self.weights_OP, start=1):
            product_BHF = torch.bmm(maps_BHE, field_BFE.transpose(1, 2))
            sums.append(F.linear(product_BHF.flatten(1), weight_OP))
            if depth < len(self.weights_OP):
                pair_BPE = (maps_BHE[:, :, None] * field_BFE[:, None]).flatten(1, 2)
                maps_BHE = torch.matmul(weight_OP, pair_BPE)
        return torch.cat(sums, dim=1)
