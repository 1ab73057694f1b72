"""Scores by a click model.

Legend: B rows, L history, K context features.
"""

from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from lorecast.data.batches import Samples
from lorecast.lifecycle.bundle import Bundle
from lorecast.lifecycle.card import loading
from lorecast.lifecycle.scorer import Scorer, Scores
from lorecast.models.click_model import ClickModel
from lorecast.models.inputs import Batch

_MAX_ROWS = 4096
"""Rows a forward pass takes at once; bounds memory."""


class ClickScorer(Scorer):
    """Probabilities of a click."""

    def __init__(self, bundle: Bundle, model: ClickModel) -> None:
        super().__init__(bundle)
        self._model = model

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """The scorer of a bundle of kind `click`; raises ArtifactError as `Scorer.load` does."""
        bundle = Bundle.open(folder)
        with loading(bundle.path):
            return cls(bundle, bundle.load_model(bundle.open_knowledge()))

    @torch.inference_mode()
    def _probabilities(
        self,
        user_row_B: NDArray[np.int32],
        item_row_B: NDArray[np.int32],
        item_BL: NDArray[np.int32],
        level_BL: NDArray[np.int32],
        context_BK: NDArray[np.int32],
    ) -> Scores:
        """Sigmoids of the model's logits."""
        batch = Batch.of(
            Samples.unlabelled(
                user_row_B=user_row_B,
                item_row_B=item_row_B,
                history_item_BL=item_BL,
                history_rating_BL=level_BL.astype(np.int8),
                context_BK=context_BK,
            )
        )
        logits = [
            self._model(batch.slice(start, start + _MAX_ROWS))
            for start in range(0, len(batch), _MAX_ROWS)
        ]
        scores: Scores = torch.sigmoid(torch.cat(logits)).numpy() if logits else np.empty(0, "f4")
        return scores
