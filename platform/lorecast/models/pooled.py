"""Fields in a row, for whatever sees no steps: the history is averaged.

Shapes: B batch, L history, N/M/X fields, F = N + M + X, E embedding width.
"""

import torch
from torch import Tensor

from lorecast.models.inputs import FieldCounts, Fields


def pooled_fields(fields: Fields) -> Tensor:
    """field_BFE: the target's, the history's averaged over its real steps, the extra ones.

    An empty history gives zeros.
    """
    mean_BJ = fields.history.mean()
    E = fields.target_BNE.shape[2]
    history_BME = mean_BJ.reshape(mean_BJ.shape[0], mean_BJ.shape[1] // E, E)
    history_BME = history_BME.expand(fields.target_BNE.shape[0], -1, -1)
    return torch.cat([fields.target_BNE, history_BME, fields.extra_BXE], dim=1)


def num_pooled(counts: FieldCounts) -> int:
    """F of `pooled_fields`."""
    return counts.target + counts.history + counts.extra
