"""KSER's alignment: the recommender's features ask, chunks of knowledge answer.

    read_h = softmax(q_h·(g k_h)/√e) g v_h          keys and values of the gated chunk g x
    y      = LN(W_E query + W_O [read_1 … read_h])
    y      = LN(y + FFN(y))

A sample asks twice: its target's features do, and those of its history and user. A learned key of
value zero lets a query ignore all knowledge. Keys and values have no bias, so they are the chunk's
times its gate: worked out once an entity, and a muted chunk says nothing.

Shapes: B batch, C chunks, K width of what asks, d work width, h heads, e = d / h, G = 2h.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lorecast.config import KSERConfig
from lorecast.models.layers import linear


class Alignment(nn.Module):
    """One layer of cross-attention."""

    head_hd: Tensor

    def __init__(self, widths: Sequence[int], config: KSERConfig) -> None:
        super().__init__()
        width, heads, dropout = config.dim, config.heads, config.dropout
        self.ask = nn.ModuleList(linear(inputs, 2 * width) for inputs in widths)
        self.key_value = linear(width, 2 * width, bias=False)
        self.no_op_key_d = nn.Parameter(torch.zeros(width)) if config.no_op else None
        self.output = linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.feed_forward = (
            nn.Sequential(
                linear(width, config.feed_forward * width),
                nn.GELU(),
                linear(config.feed_forward * width, width),
                nn.Dropout(dropout),
            )
            if config.feed_forward
            else None
        )
        self.feed_forward_norm = nn.LayerNorm(width) if config.feed_forward else None
        head_hd = torch.eye(heads).repeat_interleave(width // heads, dim=1)
        self.register_buffer("head_hd", head_hd, persistent=False)

    def forward(
        self, asking: Sequence[Tensor], key_value_BCI: Tensor, gate_BC: Tensor, mask_BC: Tensor
    ) -> Tensor:
        """aligned_B2d. `asking`: two of width K each; a chunk whose mask is 0 is not there."""
        both = [ask(asking_BK) for ask, asking_BK in zip(self.ask, asking, strict=True)]
        query_B2d, residual_B2d = torch.stack(both, dim=1).chunk(2, dim=2)
        read_B2d = self._read(query_B2d, key_value_BCI, gate_BC, mask_BC)
        aligned_B2d: Tensor = self.norm(residual_B2d + self.dropout(self.output(read_B2d)))
        if self.feed_forward is not None and self.feed_forward_norm is not None:
            aligned_B2d = self.feed_forward_norm(aligned_B2d + self.feed_forward(aligned_B2d))
        return aligned_B2d

    def _read(
        self, query_B2d: Tensor, key_value_BCI: Tensor, gate_BC: Tensor, mask_BC: Tensor
    ) -> Tensor:
        """read_B2d."""
        h, d = self.head_hd.shape
        scale = (d // h) ** -0.5
        key_BCd, value_BCd = key_value_BCI.chunk(2, dim=2)
        # All heads of a sample in one product: a query once a head, zero outside of it.
        query_BGd = (query_B2d[:, :, None] * (self.head_hd * scale)).flatten(1, 2)
        score_BCG = torch.bmm(key_BCd, query_BGd.transpose(1, 2)) * gate_BC[:, :, None]
        score_BCG = score_BCG.masked_fill(mask_BC[:, :, None] == 0, -1e9)
        if self.no_op_key_d is not None:
            score_BCG = torch.cat([score_BCG, (query_BGd @ self.no_op_key_d)[:, None]], dim=1)
        share_BCG = torch.softmax(score_BCG, dim=1)
        if self.no_op_key_d is not None:
            share_BCG, _ = torch.split(share_BCG, [gate_BC.shape[1], 1], dim=1)
        share_BCG = share_BCG * gate_BC[:, :, None]
        read_BGd = torch.bmm(share_BCG.transpose(1, 2), value_BCd)
        read_B2d: Tensor = (read_BGd.view(-1, 2, h, d) * self.head_hd).sum(2)
        return read_B2d
