"""FinalNet: layers whose outputs are products of two linear maps (Zhu et al. 2023).

Each layer doubles the order of the crosses. Two blocks, one with ReLU on gated fields and one
without activation on the fields as they are; their logits are averaged. No distillation between
blocks, and no batch normalisation.

Shapes: B batch, F fields, E embedding width, H hidden width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lorecast.config import ModelConfig
from lorecast.models.inputs import FieldCounts, Fields
from lorecast.models.layers import Layers, linear
from lorecast.models.pooled import num_pooled, pooled_fields


class FinalNet(nn.Module):
    """Mean of two blocks' logits."""

    def __init__(self, config: ModelConfig, counts: FieldCounts) -> None:
        super().__init__()
        num_fields = num_pooled(counts)
        width = num_fields * counts.dim
        hidden, dropout = config.mlp_hidden, config.dropout
        self.gate = linear(num_fields, num_fields)
        self.gated_block = _block(2 * width, hidden, dropout, nn.ReLU)
        self.plain_block = _block(width, hidden, dropout, nn.Identity)

    def forward(self, fields: Fields) -> Tensor:
        """logit_B."""
        field_BFE = pooled_fields(fields)
        # In a row, so that trained and frozen weights take the same kernel, bit for bit.
        field_BEF = field_BFE.transpose(1, 2).contiguous()
        gate_BFE = self.gate(field_BEF).transpose(1, 2)
        gated_BFE = torch.cat([field_BFE, field_BFE * gate_BFE], dim=1)
        plain_B1 = self.plain_block(field_BFE.flatten(1), fields.beside_BH)
        logit_B: Tensor = (self.gated_block(gated_BFE.flatten(1)) + plain_B1).squeeze(1) / 2
        return logit_B


class FactorizedInteraction(nn.Module):
    """a + a ∘ b, where a and b are linear in the input."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.both = linear(inputs, 2 * width)

    def forward(self, x_BH: Tensor) -> Tensor:
        """The crossed rows, `width` wide."""
        a_BH, b_BH = self.both(x_BH).chunk(2, dim=1)
        crossed_BH: Tensor = a_BH + a_BH * b_BH
        return crossed_BH


def _block(
    inputs: int, hidden: Sequence[int], dropout: float, activation: type[nn.Module]
) -> Layers:
    """A factorized interaction, activation and dropout for each hidden width, then one logit."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [FactorizedInteraction(inputs, width), activation(), nn.Dropout(dropout)]
        inputs = width
    return Layers(*layers, linear(inputs, 1))
