"""SASRec: the history reads itself, each step those before it (Kang & McAuley 2018).

As a click model: to the published score, the state after the newest step times the target, an MLP
adds what the state, the target and the extra fields say together. Steps carry ratings; blocks are
the published ones, x + Dropout(f(LayerNorm(x))), of which the last one works out the newest state
alone. Places count real steps from the newest, so that padding changes nothing.

Shapes: B batch, L history, Q steps that ask, d work width, h heads, W = N·E an item's width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from lorecast.config import ModelConfig
from lorecast.models.inputs import FieldCounts, Fields
from lorecast.models.layers import linear, mlp


class SASRec(nn.Module):
    """Logits from the state after the newest step, the target and the extra fields."""

    def __init__(self, config: ModelConfig, counts: FieldCounts) -> None:
        super().__init__()
        width, target = config.sasrec.width, counts.target * counts.dim
        self.step = linear(counts.history * counts.dim, width)
        self.place = nn.Embedding(config.sasrec.places, width)
        nn.init.xavier_normal_(self.place.weight)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            Block(width, config.sasrec.heads, config.dropout) for _ in range(config.sasrec.layers)
        )
        self.norm = nn.LayerNorm(width)
        self.target = linear(target, width, bias=False)
        both = width + target + counts.extra * counts.dim
        self.head = mlp(both, config.mlp_hidden, config.dropout)

    def forward(self, fields: Fields) -> Tensor:
        """logit_B."""
        target_BW, state_Bd = fields.target_BNE.flatten(1), self._state(fields)
        score_B = (state_Bd * self.target(target_BW)).sum(1)
        features = [state_Bd, target_BW, fields.extra_BXE.flatten(1)]
        by_head_B1 = self.head(torch.cat(features, dim=1), fields.beside_BH)
        logit_B: Tensor = score_B + by_head_B1.squeeze(1)
        return logit_B

    def _state(self, fields: Fields) -> Tensor:
        """state_Bd after the newest step; zeros for an empty history."""
        history, mask_BL = fields.history, fields.history.mask_BL
        newer_BL = mask_BL.flip(1).cumsum(1).flip(1) - mask_BL.long()
        place_BLd = self.place(newer_BL.clamp(max=self.place.num_embeddings - 1))
        x_BLd = self.dropout(history.mapped(self.step.weight, self.step.bias) + place_BLd)
        L = mask_BL.shape[1]
        itself_LL = torch.eye(L, dtype=torch.bool, device=mask_BL.device)
        # A padded step reads itself alone, so that its softmax is over something.
        reads_BLL = (mask_BL[:, None] & itself_LL.new_ones(L, L).tril()) | itself_LL
        *early, last = self.blocks
        for block in early:
            x_BLd = block(x_BLd, x_BLd, reads_BLL)
        step_L = torch.arange(1, L + 1, device=mask_BL.device)
        newest_B = (mask_BL * step_L).argmax(1)
        sample_B = torch.arange(len(newest_B), device=newest_B.device)
        newest_B1d, reads_B1L = x_BLd[sample_B, newest_B, None], reads_BLL[sample_B, newest_B, None]
        state_Bd: Tensor = self.norm(last(newest_B1d, x_BLd, reads_B1L).squeeze(1))
        return state_Bd * mask_BL.any(1, keepdim=True)


class Block(nn.Module):
    """Attention and a feed-forward network, each with LayerNorm before it and a residual."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self._heads = heads
        self._dropout = dropout
        self.norm = nn.LayerNorm(width)
        self.query = linear(width, width)
        self.key_value = linear(width, 2 * width)
        self.merge = linear(width, width)
        self.forward_norm = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(
            linear(width, width),
            nn.ReLU(),
            nn.Dropout(dropout),
            linear(width, width),
            nn.Dropout(dropout),
        )

    def forward(self, x_BQd: Tensor, step_BLd: Tensor, reads_BQL: Tensor) -> Tensor:
        """What becomes of the steps that ask, same shape."""
        key_BhLe, value_BhLe = map(self._split, self.key_value(self.norm(step_BLd)).chunk(2, dim=2))
        read_BhQe = F.scaled_dot_product_attention(
            self._split(self.query(self.norm(x_BQd))),
            key_BhLe,
            value_BhLe,
            attn_mask=reads_BQL[:, None],
            dropout_p=self._dropout if self.training else 0.0,
        )
        x_BQd = x_BQd + self.merge(read_BhQe.transpose(1, 2).flatten(2))
        after_BQd: Tensor = x_BQd + self.feed_forward(self.forward_norm(x_BQd))
        return after_BQd

    def _split(self, x_BLd: Tensor) -> Tensor:
        """x_BhLe."""
        B, L, d = x_BLd.shape
        return x_BLd.reshape(B, L, self._heads, d // self._heads).transpose(1, 2)
