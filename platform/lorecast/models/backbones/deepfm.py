"""DeepFM: a factorization machine and a deep network on the same embeddings (Guo et al. 2017).

As in KAR's code, extra fields have no second order: inner products suit embeddings of features and
not what an extractor adds. The first order is linear in the embeddings.

Shapes: B batch, N/M/X fields, F = N + M + X, E embedding width.
"""

from torch import Tensor, nn

from lorecast.config import ModelConfig
from lorecast.models.inputs import FieldCounts, Fields
from lorecast.models.layers import linear, mlp
from lorecast.models.pooled import num_pooled, pooled_fields


class DeepFM(nn.Module):
    """Sum of three logits: first order, second order, deep."""

    def __init__(self, config: ModelConfig, counts: FieldCounts) -> None:
        super().__init__()
        width = num_pooled(counts) * counts.dim
        self._num_crossed = counts.target + counts.history
        self.first_order = linear(width, 1)
        self.deep = mlp(width, config.mlp_hidden, config.dropout)

    def forward(self, fields: Fields) -> Tensor:
        """logit_B."""
        field_BFE = pooled_fields(fields)
        flat_BK = field_BFE.flatten(1)
        second_B = second_order(field_BFE[:, : self._num_crossed])
        linear_B1, deep_B1 = self.first_order(flat_BK), self.deep(flat_BK, fields.beside_BH)
        logit_B: Tensor = (linear_B1 + deep_B1).squeeze(1) + second_B
        return logit_B


def second_order(field_BFE: Tensor) -> Tensor:
    """Sum of the inner products of all pairs of fields, one number a sample."""
    return (field_BFE.sum(1).square() - field_BFE.square().sum(1)).sum(1) / 2
