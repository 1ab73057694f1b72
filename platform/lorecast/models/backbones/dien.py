"""DIEN: the history as a sequence of interests that evolves towards the target (Zhou et al. 2019).

A GRU reads the history, DIN's attention scores its states against the target, a second GRU reads
them. No auxiliary loss. Where a score gates the second GRU it passes a sigmoid, so that a state
stays between its old value and the new one.

Shapes: B batch, L history, N/M/X fields, E embedding width, W = N·E an item's width, G gates.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from lorecast.config import ModelConfig
from lorecast.models.backbones.din import TargetAttention
from lorecast.models.inputs import FieldCounts, Fields
from lorecast.models.layers import linear, mlp


class DIEN(nn.Module):
    """Logits from the target, the evolved interest and the extra fields."""

    def __init__(self, config: ModelConfig, counts: FieldCounts) -> None:
        super().__init__()
        width = counts.target * counts.dim
        self._evolution = config.dien.evolution
        self.extract = nn.GRU(counts.history * counts.dim, width, batch_first=True)
        self.attention = TargetAttention(width, config.attention_hidden)
        self.evolve = (
            AttentionGRU(width, scaled=self._evolution == "augru")
            if self._evolution in ("agru", "augru")
            else nn.GRU(width, width, batch_first=True)
        )
        self.head = mlp(2 * width + counts.extra * counts.dim, config.mlp_hidden, config.dropout)

    def forward(self, fields: Fields) -> Tensor:
        """logit_B."""
        target_BW = fields.target_BNE.flatten(1)
        steps_BLK, mask_BL = _padded_last(fields.history.steps(), fields.history.mask_BL)
        interest_BW = self._interest(target_BW, self.extract(steps_BLK)[0], mask_BL)
        features = [interest_BW, target_BW, fields.extra_BXE.flatten(1)]
        logit_B: Tensor = self.head(torch.cat(features, dim=1), fields.beside_BH).squeeze(1)
        return logit_B

    def _interest(self, target_BW: Tensor, states_BLW: Tensor, mask_BL: Tensor) -> Tensor:
        """interest_BW; zero where a history is empty."""
        if self._evolution == "gru":
            attended_BW: Tensor = self.attention(target_BW, self.evolve(states_BLW)[0], mask_BL)
            return attended_BW
        score_BL = self.attention.score(target_BW, states_BLW, mask_BL)
        if self._evolution == "aigru":
            return _last(self.evolve(states_BLW * score_BL[:, :, None])[0], mask_BL)
        interest_BW: Tensor = self.evolve(states_BLW, torch.sigmoid(score_BL) * mask_BL)
        return interest_BW


class AttentionGRU(nn.Module):
    """A GRU whose update gate is attention's share of a step (AGRU) or its own gate times the share
    (AUGRU). A step whose share is 0 leaves the state as it is."""

    def __init__(self, width: int, *, scaled: bool) -> None:
        super().__init__()
        gates = 3 if scaled else 2
        self.step = linear(width, gates * width)
        self.state = linear(width, gates * width)

    def forward(self, steps_BLW: Tensor, share_BL: Tensor) -> Tensor:
        """state_BW after the last step."""
        B, _, W = steps_BLW.shape
        state_BW = steps_BLW.new_zeros(B, W)
        by_step_BLG = self.step(steps_BLW)
        for by_step_BG, gate_B1 in zip(
            by_step_BLG.unbind(1), share_BL[:, :, None].unbind(1), strict=True
        ):
            new_BW, reset_BW, *update = by_step_BG.split(W, dim=1)
            old_BW, old_reset_BW, *old_update = self.state(state_BW).split(W, dim=1)
            candidate_BW = torch.tanh(new_BW + torch.sigmoid(reset_BW + old_reset_BW) * old_BW)
            gate_BW = gate_B1
            if update:
                gate_BW = gate_B1 * torch.sigmoid(update[0] + old_update[0])
            state_BW = state_BW + gate_BW * (candidate_BW - state_BW)
        return state_BW


def _padded_last(steps_BLK: Tensor, mask_BL: Tensor) -> tuple[Tensor, Tensor]:
    """The same steps and mask with the real steps first, in their order.

    So no real state of a GRU has seen a padded step.
    """
    order_BL = (~mask_BL).byte().argsort(dim=1, stable=True)
    order_BLK = order_BL[:, :, None].expand_as(steps_BLK)
    return steps_BLK.gather(1, order_BLK), mask_BL.gather(1, order_BL)


def _last(states_BLW: Tensor, mask_BL: Tensor) -> Tensor:
    """state_BW of the last real step; zero where there is none."""
    count_B = mask_BL.sum(1)
    last_BL = F.one_hot((count_B - 1).clamp(min=0), mask_BL.shape[1]) * (count_B > 0)[:, None]
    return torch.bmm(last_BL.to(states_BLW.dtype)[:, None], states_BLW).squeeze(1)
