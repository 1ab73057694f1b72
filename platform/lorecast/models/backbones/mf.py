"""Matrix factorization: a user's vector times an item's, without history (Koren et al. 2009).

The item's vector is its embedding, the user's one of its own; bias terms, too. As in SVDFeature
(Chen et al. 2012) further fields join by addition: the item's features its vector, the user's
features, the context and what an extractor adds the user's. Without them it is the plain model.

Shapes: B batch, N/X fields, E embedding width.
"""

from torch import Tensor, nn

from lorecast.config import ModelConfig
from lorecast.models.inputs import FieldCounts, Fields
from lorecast.models.layers import linear


class MF(nn.Module):
    """Logits p·q + bias of the user + bias of the item. A user without a row has neither vector
    nor bias of its own."""

    def __init__(self, _config: ModelConfig, counts: FieldCounts) -> None:
        super().__init__()
        self.user = nn.Embedding(counts.num_users + 1, counts.dim, padding_idx=0)
        self.user_bias = nn.Embedding(counts.num_users + 1, 1, padding_idx=0)
        self.item_bias = linear(counts.target * counts.dim, 1)
        nn.init.xavier_normal_(self.user.weight[1:])
        nn.init.zeros_(self.user.weight[0])
        nn.init.zeros_(self.user_bias.weight)

    def forward(self, fields: Fields) -> Tensor:
        """logit_B."""
        assert fields.user_row_B is not None, "the batch says who its users are"
        user_BE = self.user(fields.user_row_B) + fields.extra_BXE.sum(1)
        product_B = (user_BE * fields.target_BNE.sum(1)).sum(1)
        bias_B1 = self.user_bias(fields.user_row_B) + self.item_bias(fields.target_BNE.flatten(1))
        logit_B: Tensor = product_B + bias_B1.squeeze(1)
        return logit_B
