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
from typing import cast

import torch
from torch import Tensor, nn

from lorecast.config import KSERConfig
from lorecast.models.layers import linear, linear_of_parts


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
        self,
        asking: Sequence[Sequence[Tensor]],
        key_value_BCI: Tensor,
        gate_BC: Tensor,
        mask_BC: Tensor,
    ) -> Tensor:
        """aligned_B2d. `asking`: two, each in parts of together K (see `linear_of_parts`); a chunk
        whose mask is 0 is not there."""
        both = [
            linear_of_parts(cast(nn.Linear, ask), parts)
            for ask, parts in zip(self.ask, asking, strict=True)
        ]
        ask_B2I = torch.stack([each_BI.expand(gate_BC.shape[0], -1) for each_BI in both], dim=1)
        query_B2d, residual_B2d = ask_B2I.chunk(2, dim=2)
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
        score_BGC = torch.bmm(query_BGd, key_BCd.transpose(1, 2)) * gate_BC[:, None]
        score_BGC = score_BGC.masked_fill(mask_BC[:, None] == 0, -1e9)
        if self.no_op_key_d is not None:
            score_BGC = torch.cat([score_BGC, (query_BGd @ self.no_op_key_d)[:, :, None]], dim=2)
        share_BGC = torch.softmax(score_BGC, dim=2)[:, :, : gate_BC.shape[1]] * gate_BC[:, None]
        read_BGd = torch.bmm(share_BGC, value_BCd)
        read_B2d: Tensor = (read_BGd.view(-1, 2, h, d) * self.head_hd).sum(2)
        return read_B2d
