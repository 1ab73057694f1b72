"""FiBiNet: fields weighed by their importance, crossed in pairs by a matrix (Huang et al. 2019).

Shapes: B batch, F fields, P = F(F − 1)/2 pairs, E embedding width.
"""

import torch
from torch import Tensor, nn

from lorecast.config import ModelConfig
from lorecast.models.inputs import FieldCounts, Fields
from lorecast.models.layers import linear, mlp
from lorecast.models.pooled import num_pooled, pooled_fields


class FiBiNet(nn.Module):
    """Logits from the crosses of the fields as they are and as they are weighed."""

    def __init__(self, config: ModelConfig, counts: FieldCounts) -> None:
        super().__init__()
        num_fields = num_pooled(counts)
        self.importance = SENet(num_fields)
        self.cross = BilinearCross(num_fields, counts.dim)
        num_pairs = num_fields * (num_fields - 1) // 2
        self.head = mlp(2 * num_pairs * counts.dim, config.mlp_hidden, config.dropout)

    def forward(self, fields: Fields) -> Tensor:
        """logit_B."""
        field_BFE = pooled_fields(fields)
        weighed_BFE = field_BFE * self.importance(field_BFE)[:, :, None]
        crosses = [self.cross(field_BFE), self.cross(weighed_BFE)]
        cross_BK = torch.cat(crosses, dim=1).flatten(1)
        logit_B: Tensor = self.head(cross_BK, fields.beside_BH).squeeze(1)
        return logit_B


class SENet(nn.Module):
    """A weight a field from the means of all fields."""

    def __init__(self, num_fields: int) -> None:
        super().__init__()
        self.excite = nn.Sequential(
            linear(num_fields, 2 * num_fields, bias=False),
            nn.ReLU(),
            linear(2 * num_fields, num_fields, bias=False),
            nn.ReLU(),
        )

    def forward(self, field_BFE: Tensor) -> Tensor:
        """weight_BF, from 0 on."""
        weight_BF: Tensor = self.excite(field_BFE.mean(2))
        return weight_BF


class BilinearCross(nn.Module):
    """(v_i W) ∘ v_j of every pair of fields, W shared by all pairs."""

    pairs_2P: Tensor

    def __init__(self, num_fields: int, width: int) -> None:
        super().__init__()
        self.weight = linear(width, width, bias=False)
        pairs_2P = torch.triu_indices(num_fields, num_fields, offset=1)
        self.register_buffer("pairs_2P", pairs_2P, persistent=False)

    def forward(self, field_BFE: Tensor) -> Tensor:
        """cross_BPE."""
        left_P, right_P = self.pairs_2P
        left_BPE: Tensor = self.weight(field_BFE).index_select(1, left_P)
        return left_BPE * field_BFE.index_select(1, right_P)
