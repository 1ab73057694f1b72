"""HEIN, KAR's hybrid-expert adaptor: experts for both sides, experts for one side, a gate a side.

After Xi et al. 2023 (arXiv 2306.10933, its code) and Xi et al. 2024 (arXiv 2408.10520), for a side
t with S shared and P dedicated experts:

    expert(k) = ReLU(W2 ReLU(W1 k + b1) + b2)                          D → hidden → E
    α^t = softmax(V_t k_t + c_t)                                       S + P weights
    a_t = Σ_j α^t_j s_j(k_t) + Σ_j α^t_{S+j} d^t_j(k_t)

There k_t is the encoding of one text a side. Here it is `EntityMean`, and a_t is 0 without texts.

Shapes: U distinct entities, K experts, D encoder width, E embedding width.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lorecast.config import ModelConfig, Side
from lorecast.models.extractors.entities import EntityExtractor
from lorecast.models.inputs import FieldCounts
from lorecast.models.knowledge import KnowledgeShape
from lorecast.models.layers import linear


class HEIN(EntityExtractor):
    """One field a side: its experts' answers, weighed by its gate."""

    def __init__(self, model: ModelConfig, shape: KnowledgeShape, counts: FieldCounts) -> None:
        super().__init__(shape)
        config, dim = model.hein, shape.dim

        def experts(number: int) -> nn.ModuleList:
            return nn.ModuleList(expert(model, dim, counts.dim) for _ in range(number))

        self.shared = experts(config.shared)
        self.dedicated = nn.ModuleDict({side: experts(config.dedicated) for side in shape.sides})
        self.gate = nn.ModuleDict(
            {side: linear(dim, config.shared + config.dedicated) for side in shape.sides}
        )

    def adapt(self, side: Side, entity_UD: Tensor) -> Tensor:
        """a_t."""
        own = self.dedicated[side]
        assert isinstance(own, nn.ModuleList)
        return mixture(self.gate[side], [*self.shared, *own], entity_UD)


def expert(model: ModelConfig, inputs: int, outputs: int) -> nn.Sequential:
    """Two layers, each with ReLU and dropout."""
    hidden, dropout = model.hein.hidden, model.hein.dropout
    return nn.Sequential(
        linear(inputs, hidden),
        nn.ReLU(),
        nn.Dropout(dropout),
        linear(hidden, outputs),
        nn.ReLU(),
        nn.Dropout(dropout),
    )


def mixture(gate: nn.Module, experts: Iterable[nn.Module], entity_UD: Tensor) -> Tensor:
    """mixed_UE: what the experts say, weighed by a softmax over them."""
    weight_UK = torch.softmax(gate(entity_UD), dim=1)
    answer_UKE = torch.stack([answer(entity_UD) for answer in experts], dim=1)
    return torch.bmm(weight_UK[:, None], answer_UKE).squeeze(1)
