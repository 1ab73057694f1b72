"""AutoInt: fields attend to each other (Song et al. 2019), without a deep network.

Shapes: B batch, F fields, W width (E before the first layer), h heads.
"""

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from lorecast.config import ModelConfig
from lorecast.models.inputs import FieldCounts, Fields
from lorecast.models.layers import linear
from lorecast.models.pooled import num_pooled, pooled_fields


class AutoInt(nn.Module):
    """Logits from the fields after layers of self-attention."""

    def __init__(self, config: ModelConfig, counts: FieldCounts) -> None:
        super().__init__()
        autoint = config.autoint
        inputs = [counts.dim, *[autoint.width] * (autoint.layers - 1)]
        self.layers = nn.Sequential(
            *(FieldAttention(width, autoint.width, autoint.heads) for width in inputs)
        )
        self.head = linear(num_pooled(counts) * autoint.width, 1)

    def forward(self, fields: Fields) -> Tensor:
        """logit_B."""
        logit_B: Tensor = self.head(self.layers(pooled_fields(fields)).flatten(1)).squeeze(1)
        return logit_B


class FieldAttention(nn.Module):
    """Scaled self-attention over fields and a linear residual, then ReLU."""

    def __init__(self, inputs: int, width: int, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.query = linear(inputs, width, bias=False)
        self.key = linear(inputs, width, bias=False)
        self.value = linear(inputs, width, bias=False)
        self.residual = linear(inputs, width, bias=False)

    def forward(self, field_BFW: Tensor) -> Tensor:
        """The attended fields, `width` wide."""
        read_BhFe = F.scaled_dot_product_attention(
            self._split(self.query(field_BFW)),
            self._split(self.key(field_BFW)),
            self._split(self.value(field_BFW)),
        )
        read_BFW = read_BhFe.transpose(1, 2).flatten(2)
        attended_BFW: Tensor = (read_BFW + self.residual(field_BFW)).relu()
        return attended_BFW

    def _split(self, x_BFW: Tensor) -> Tensor:
        B, S, W = x_BFW.shape
        return x_BFW.view(B, S, self._heads, W // self._heads).transpose(1, 2)
