"""ESFNet, KSER's filter: a gate for every chunk of knowledge.

    z_c = u_f·tanh(V_f x_c)                                  what a chunk says, in one number
    h   = ReLU(W1 [z; mean of each field's x; r] + b1)       r: the recommender's context
    a_c = w_c·h + q_f·ReLU(Q_f x_c + G_f r)
    g_c = 2 sigmoid(a_c)                                     or another of `gate_of`

    a_c += b_f s_c                                           s: how sure the writer was (certainty)

A wrong text reads like a right one, so how sure the language model was of it (`kser.certainty`) is
known to no x. b_f is learned and starts above 0: surer texts weigh more from the first step on.

After Wang et al. 2025 (arXiv 2508.07223), which prints no equations; these are our reading, and
certainty is ours. Whatever does not depend on the context is worked out once an entity.

Shapes: B batch, U distinct entities, C chunks, F fields of knowledge, d work width, H hidden width,
K context.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lorecast.config import Gate, KSERConfig
from lorecast.models.extractors.chunks import FieldLinear, Projected, masked_mean, places
from lorecast.models.layers import linear, linear_of_parts, zero_linear

_START_SLOPE = 0.25
"""Of a gate's logit, a standard deviation of certainty. On the embedded world (two seeds) it gave a
better validation AUC than 0.5."""


class ESFNet(nn.Module):
    """A gate a chunk, from the chunk, from all other chunks and from the context.

    All gates start at 1 (sigmoid: at ½), with certainty around it. The context carries no gradient,
    so gates cannot bend the embeddings; without it (`kser.context: false`) a gate depends on texts
    alone.
    """

    def __init__(self, config: KSERConfig, fields_of_sides: Sequence[list[int]], context: int):
        super().__init__()
        self.num_context = context if config.context else 0
        self._gate, self._top_k = config.gate, config.top_k
        self._hidden = config.gate_hidden
        first = [0]
        for field_C in fields_of_sides:
            first.append(first[-1] + max(field_C) + 1)
        everywhere = [
            start + field
            for start, fields in zip(first, fields_of_sides, strict=False)
            for field in fields
        ]
        self._chunks_of_field = places(everywhere)
        self.looks = nn.ModuleList(
            SideLook(field_C, config.dim, config.gate_hidden, certainty=config.certainty)
            for field_C in fields_of_sides
        )
        self.excite_bias_H = nn.Parameter(torch.zeros(config.gate_hidden))
        self.by_context = (
            linear(self.num_context, config.gate_hidden + first[-1] * config.dim, bias=False)
            if config.context
            else None
        )
        self.by_all = zero_linear(config.gate_hidden, len(everywhere))
        self.by_own_Fd = nn.Parameter(torch.zeros(first[-1], config.dim))
        self.register_buffer("field_C", torch.tensor(everywhere), persistent=False)

    field_C: Tensor

    def forward(
        self,
        own_BCd: Tensor,
        excite_BH: Tensor,
        mask_BC: Tensor,
        context: Sequence[Tensor],
        prior_BC: Tensor | None = None,
    ) -> Tensor:
        """gate_BC, 0 where the mask is; of what `looks` gave, gathered and added up, and the parts
        of the context, K wide together (see `linear_of_parts`)."""
        excite_BH = excite_BH + self.excite_bias_H
        if self.by_context is not None:
            both_BI = linear_of_parts(self.by_context, context)
            widths = [self._hidden, self.by_own_Fd.numel()]
            context_BH, context_BI = torch.split(both_BI, widths, dim=1)
            excite_BH = excite_BH + context_BH
            context_BFd = context_BI.view(-1, *self.by_own_Fd.shape)
            own_BCd = own_BCd + context_BFd.index_select(1, self.field_C)
        by_own_Cd = self.by_own_Fd.index_select(0, self.field_C)
        by_own_BC = (torch.relu(own_BCd) * by_own_Cd).sum(2)
        logit_BC = self.by_all(torch.relu(excite_BH)) + by_own_BC
        if prior_BC is not None:
            logit_BC = logit_BC + prior_BC
        return gate_of(self._gate, logit_BC, mask_BC, self._chunks_of_field, self._top_k)


class SideLook(nn.Module):
    """One side's part of the gates that no context changes."""

    field_C: Tensor

    def __init__(self, field_C: list[int], width: int, hidden: int, *, certainty: bool) -> None:
        super().__init__()
        self._chunks_of_field = places(field_C)
        num_fields = len(self._chunks_of_field)
        self.register_buffer("field_C", torch.tensor(field_C), persistent=False)
        self.map = FieldLinear(width, 2 * width, field_C)
        self.squeeze_Fd = nn.Parameter(torch.empty(num_fields, width))
        nn.init.xavier_normal_(self.squeeze_Fd)
        self.excite = linear(len(field_C) + num_fields * width, hidden, bias=False)
        slope_F = torch.full((num_fields,), _START_SLOPE)
        self.slope_F = nn.Parameter(slope_F) if certainty else None

    def forward(self, side: Projected) -> tuple[Tensor, ...]:
        """(own_UCd, excite_UH) and, with certainty, prior_UC: what it adds to the logit."""
        summary_UCd, own_UCd = self.map(side.chunk_UCd).chunk(2, dim=2)
        squeeze_Cd = self.squeeze_Fd.index_select(0, self.field_C)
        squeezed_UC = (summary_UCd.tanh() * squeeze_Cd).sum(2) * side.mask_UC
        means = [
            masked_mean(side.chunk_UCd[:, chunks], side.mask_UC[:, chunks])
            for chunks in self._chunks_of_field
        ]
        excite_UH = self.excite(torch.cat([squeezed_UC, *means], dim=1))
        if self.slope_F is None:
            return own_UCd, excite_UH
        assert side.certainty_UC is not None, "`check_vectors` comes first"
        return own_UCd, excite_UH, side.certainty_UC * self.slope_F.index_select(0, self.field_C)


def gate_of(
    gate: Gate,
    logit_BC: Tensor,
    mask_BC: Tensor,
    chunks_of_field: Sequence[list[int] | slice],
    top_k: int,
) -> Tensor:
    """gate_BC of logits, 0 where the mask is.

    `softmax` and `sparsemax` share out, within each field, as many ones as it has chunks, so that
    equal logits give 1; `top_k` lets the k largest of a field pass by `double_sigmoid`.
    """
    if gate in ("double_sigmoid", "sigmoid"):
        scale = 2 if gate == "double_sigmoid" else 1
        return scale * torch.sigmoid(logit_BC) * mask_BC
    gate_BC = torch.zeros_like(logit_BC)
    for chunks in chunks_of_field:
        there_BG = mask_BC[:, chunks] > 0
        # Finite, so that a field without texts gives no NaN.
        logit_BG = logit_BC[:, chunks].masked_fill(~there_BG, -1e4)
        if gate == "top_k":
            kept_BG = torch.zeros_like(there_BG)
            kept_BG = kept_BG.scatter(
                1, logit_BG.topk(min(top_k, logit_BG.shape[1]), dim=1).indices, True
            )
            part_BG = 2 * torch.sigmoid(logit_BG) * kept_BG
        else:
            share = torch.softmax(logit_BG, dim=1) if gate == "softmax" else sparsemax(logit_BG)
            part_BG = share * there_BG.sum(1, keepdim=True)
        gate_BC[:, chunks] = part_BG * there_BG
    return gate_BC


def sparsemax(logit_BG: Tensor) -> Tensor:
    """The nearest point of the simplex to the logits (Martins & Astudillo 2016)."""
    sorted_BG = logit_BG.sort(dim=1, descending=True).values
    rank_G = torch.arange(1, logit_BG.shape[1] + 1, device=logit_BG.device)
    total_BG = sorted_BG.cumsum(1)
    size_B1 = (1 + rank_G * sorted_BG > total_BG).sum(1, keepdim=True)
    threshold_B1 = (total_BG.gather(1, size_B1 - 1) - 1) / size_B1
    return (logit_BG - threshold_B1).clamp(min=0)
