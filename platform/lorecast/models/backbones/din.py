"""DIN: the history, weighed by how each step relates to the target (Zhou et al. 2018).

As in KAR's code, but for Dice: running statistics, and padded steps do not enter them.

Shapes: B batch, L history, V the batch's real history steps, N/M/X fields, E embedding width,
W = N·E an item's width, H hidden width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from lorecast.config import ModelConfig
from lorecast.models.inputs import FieldCounts, Fields
from lorecast.models.layers import Dice, linear, mlp


class DIN(nn.Module):
    """Logits from the target, the attended history and the extra fields."""

    def __init__(self, config: ModelConfig, counts: FieldCounts) -> None:
        super().__init__()
        width = counts.target * counts.dim
        self.step = linear(counts.history * counts.dim, width)
        self.attention = TargetAttention(width, config.attention_hidden)
        self.head = mlp(2 * width + counts.extra * counts.dim, config.mlp_hidden, config.dropout)

    def forward(self, fields: Fields) -> Tensor:
        """logit_B."""
        target_BW = fields.target_BNE.flatten(1)
        history = fields.history
        steps_BLW = history.mapped(self.step.weight, self.step.bias)
        by_step_BLH = None
        if steps_BLW.shape[0] > 1:  # many steps of few items
            of_step_HW = self.attention.of_step()
            by_step_BLH = history.mapped(of_step_HW @ self.step.weight, of_step_HW @ self.step.bias)
        interest_BW = self.attention(target_BW, steps_BLW, history.mask_BL, by_step_BLH)
        features = [interest_BW, target_BW, fields.extra_BXE.flatten(1)]
        logit_B: Tensor = self.head(torch.cat(features, dim=1), fields.beside_BH).squeeze(1)
        return logit_B


class TargetAttention(nn.Module):
    """Sum of the steps, each times MLP([q, h, q−h, q∘h]); no softmax, as published.

    With W = [Wq, Wh, Wd, Wp] the first layer is (Wq + Wd)q + (Wh − Wd)h + Wp(q∘h): the same
    function without the (B, L, 4W) tensor. One row of steps may stand for all queries.
    """

    def __init__(self, width: int, hidden: Sequence[int]) -> None:
        super().__init__()
        first, *rest = hidden
        self.first = linear(4 * width, first)
        self.rest = nn.Sequential(Dice(first))
        for outputs in rest:
            self.rest.extend([linear(first, outputs), Dice(outputs)])
            first = outputs
        self.rest.append(linear(first, 1))

    def forward(
        self,
        query_BW: Tensor,
        steps_BLW: Tensor,
        mask_BL: Tensor,
        by_step_BLH: Tensor | None = None,
    ) -> Tensor:
        """interest_BW; zero where a history is empty."""
        if steps_BLW.shape[0] < query_BW.shape[0]:
            if not mask_BL.all():
                steps_BLW, mask_BL = steps_BLW[:, mask_BL[0]], mask_BL[:, mask_BL[0]]
            return self.score(query_BW, steps_BLW, mask_BL) @ steps_BLW[0]
        score_BL = self.score(query_BW, steps_BLW, mask_BL, by_step_BLH)
        return torch.bmm(score_BL[:, None], steps_BLW).squeeze(1)

    def of_step(self) -> Tensor:
        """weight_HW, Wh − Wd: the first layer's map of a step alone."""
        _, step_HW, difference_HW, _ = self.first.weight.chunk(4, dim=1)
        return step_HW - difference_HW

    def score(
        self,
        query_BW: Tensor,
        steps_BLW: Tensor,
        mask_BL: Tensor,
        by_step_BLH: Tensor | None = None,
    ) -> Tensor:
        """score_BL; zero at padded steps. `by_step_BLH`: steps_BLW by `of_step`, if known."""
        query_HW, _, difference_HW, product_HW = self.first.weight.chunk(4, dim=1)
        by_query_BH = F.linear(query_BW, query_HW + difference_HW, self.first.bias)
        if by_step_BLH is None:
            by_step_BLH = F.linear(steps_BLW, self.of_step())
        others_BLH = by_query_BH[:, None] + by_step_BLH
        if steps_BLW.shape[0] < query_BW.shape[0]:
            mask_BL = mask_BL.expand(len(query_BW), -1)
            # Wp(q∘h) = (Wp diag h)q: no product of each query with each step is built.
            weight_LHW = product_HW * steps_BLW[0][:, None]
            first_BK = torch.addmm(others_BLH.flatten(1), query_BW, weight_LHW.flatten(0, 1).T)
            first_VH = first_BK.view(-1, len(product_HW))
        else:
            product_VW = (query_BW[:, None] * steps_BLW).flatten(0, 1)
            first_VH = torch.addmm(others_BLH.flatten(0, 1), product_VW, product_HW.T)
        if mask_BL.all():
            all_BL: Tensor = self.rest(first_VH).view_as(mask_BL)
            return all_BL
        real_V = mask_BL.flatten().nonzero().squeeze(1)
        score_V = self.rest(first_VH.index_select(0, real_V)).squeeze(1)
        score_BL = torch.zeros_like(mask_BL, dtype=score_V.dtype)
        return score_BL.flatten().index_copy(0, real_V, score_V).view_as(mask_BL)
