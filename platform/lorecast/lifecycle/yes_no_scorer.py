"""Scores by a language model that says Yes or No; its system prompt and a user's liked titles are
read once for all candidates.

A history's entries without a rating count as liked where histories are items alone, else not. An
unknown user or item takes row 0, which training has met.

Legend: B rows, L history, K context features.
"""

from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from lorecast.lifecycle.card import loading
from lorecast.lifecycle.scorer import Scorer, Scores
from lorecast.lifecycle.sella_bundle import SellaBundle
from lorecast.sella.rows import PromptRows, liked_levels, newest
from lorecast.sella.yes_no import YesNoModel

_MAX_ROWS = 256
"""Rows a forward pass takes at once; bounds memory."""


class YesNoScorer(Scorer):
    """Probabilities of Yes."""

    together = 64

    def __init__(self, bundle: SellaBundle, model: YesNoModel) -> None:
        super().__init__(bundle)
        self._model = model
        self._shown = bundle.card.prompt.history_titles
        self._liked_K = liked_levels(bundle.rating_levels, bundle.card.positive_rating)

    @classmethod
    def open(cls, folder: str | Path, device: str = "cpu") -> Self:
        """The scorer of a bundle of kind `sella`; raises ArtifactError as `Scorer.load` does."""
        bundle = SellaBundle.open(folder)
        with loading(bundle.path):
            return cls(bundle, bundle.load_model(torch.device(device)))

    def warm_up(self) -> None:
        self.candidates("", [""])

    def _probabilities(
        self,
        user_row_B: NDArray[np.int32],
        item_row_B: NDArray[np.int32],
        item_BL: NDArray[np.int32],
        level_BL: NDArray[np.int32],
        context_BK: NDArray[np.int32],  # noqa: ARG002
    ) -> Scores:
        if len(item_BL) < len(item_row_B):
            item_BL, level_BL = (
                np.broadcast_to(of_all, (len(item_row_B), of_all.shape[1]))
                for of_all in (item_BL, level_BL)
            )
        liked_BL = self._liked_K[level_BL] if self.bundle.rates_histories else item_BL > 0
        rows = PromptRows(
            user_row_B=user_row_B,
            item_row_B=item_row_B,
            liked_BM=newest(item_BL, liked_BL, self._shown),
            label_B=np.zeros(len(user_row_B), np.float32),
        )
        return self._model.probabilities(rows, _MAX_ROWS)
