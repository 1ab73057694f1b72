"""FiGNN: fields as nodes of a graph that pass each other messages (Li et al. 2019).

Shapes: B batch, F fields (i receives, j sends), E embedding width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from lorecast.config import ModelConfig
from lorecast.models.inputs import FieldCounts, Fields
from lorecast.models.layers import linear
from lorecast.models.pooled import num_pooled, pooled_fields


class FiGNN(nn.Module):
    """Sum of a logit a node, each times an attention weight."""

    def __init__(self, config: ModelConfig, counts: FieldCounts) -> None:
        super().__init__()
        num_fields, dim = num_pooled(counts), counts.dim
        self._steps = config.fignn.steps
        self.edges = EdgeWeights(num_fields, dim)
        self.send_FEE = nn.Parameter(torch.empty(num_fields, dim, dim))
        self.receive_FEE = nn.Parameter(torch.empty(num_fields, dim, dim))
        for weight_EE in (*self.send_FEE, *self.receive_FEE):
            nn.init.xavier_normal_(weight_EE)
        self.receive_bias_E = nn.Parameter(torch.zeros(dim))
        self.update = nn.GRUCell(dim, dim)
        self.score = linear(dim, 1, bias=False)
        self.attention = linear(num_fields * dim, num_fields, bias=False)

    def forward(self, fields: Fields) -> Tensor:
        """logit_B."""
        node_BFE = field_BFE = pooled_fields(fields)
        edge_BFF = self.edges(field_BFE)
        for _ in range(self._steps):
            message_BFE = torch.bmm(edge_BFF, _each_by_its_own(node_BFE, self.send_FEE))
            message_BFE = _each_by_its_own(message_BFE, self.receive_FEE) + self.receive_bias_E
            updated = self.update(message_BFE.flatten(0, 1), node_BFE.flatten(0, 1))
            node_BFE = updated.view_as(field_BFE) + field_BFE
        weight_BF = torch.sigmoid(self.attention(node_BFE.flatten(1)))
        logit_B: Tensor = (weight_BF * self.score(node_BFE).squeeze(2)).sum(1)
        return logit_B


class EdgeWeights(nn.Module):
    """How much of each other field a field receives: softmax of LeakyReLU(w·[v_i, v_j]).

    w·[v_i, v_j] is a number of i and one of j, so no tensor of pairs of fields is built.
    """

    itself_FF: Tensor

    def __init__(self, num_fields: int, dim: int) -> None:
        super().__init__()
        self.weight = linear(2 * dim, 1, bias=False)
        itself_FF = torch.eye(num_fields, dtype=torch.bool)
        self.register_buffer("itself_FF", itself_FF, persistent=False)

    def forward(self, field_BFE: Tensor) -> Tensor:
        """edge_BFF; rows receive, sum to 1 and leave themselves out."""
        by_i_E, by_j_E = self.weight.weight.squeeze(0).chunk(2)
        score_BFF = (field_BFE @ by_i_E)[:, :, None] + (field_BFE @ by_j_E)[:, None]
        return F.leaky_relu(score_BFF).masked_fill(self.itself_FF, -torch.inf).softmax(2)


def _each_by_its_own(field_BFE: Tensor, weight_FEE: Tensor) -> Tensor:
    """Every field times its own matrix."""
    return torch.bmm(field_BFE.transpose(0, 1), weight_FEE).transpose(0, 1)
