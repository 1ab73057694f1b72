"""Scores by a click model.

Legend: B rows, L history, K context features, C chunks of both sides.
"""

from copy import copy
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from lorecast.data.batches import Samples
from lorecast.lifecycle.bundle import Bundle
from lorecast.lifecycle.card import loading
from lorecast.lifecycle.scorer import Id, Scorer, Scores
from lorecast.models.click_model import ClickModel, Without
from lorecast.models.inputs import Batch

_MAX_ROWS = 4096
"""Rows a forward pass takes at once; bounds memory."""


class ClickScorer(Scorer):
    """Probabilities of a click."""

    together = 1024

    def __init__(self, bundle: Bundle, model: ClickModel) -> None:
        super().__init__(bundle)
        self.bundle: Bundle = bundle
        self._model = model
        self._without: Without | None = None

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """The scorer of a bundle of kind `click`; raises ArtifactError as `Scorer.load` does."""
        bundle = Bundle.open(folder)
        with loading(bundle.path):
            return cls(bundle, bundle.load_model(bundle.open_knowledge()))

    @property
    def bare_form(self) -> Without:
        """What `without_knowledge` leaves out: the extractor, where it was added to a backbone
        that stayed as it was; else the texts."""
        return "extractor" if self.bundle.strategy == "extractor_only" else "texts"

    def without_knowledge(self) -> Self:
        """The same model, not told what texts say; it shares everything with this one."""
        bare = copy(self)
        if self.bundle.knowledge is not None:
            bare._without = self.bare_form
        return bare

    @torch.inference_mode()
    def gates(self, user_id: Id, item_id: Id) -> NDArray[np.float32] | None:
        """gate_C, ESFNet's weight of each chunk for this pair, in the order of
        `KnowledgeShape.all_chunks`, NaN where there is no text; of a text that is cut into slices
        their mean. None if the model weighs no texts one by one."""
        if not self._model.has_gates or self.bundle.model.kser.chunks == "slices":
            return None
        user_row_1, item_row_1 = self.rows("user", [user_id]), self.rows("item", [item_id])
        item_1L, level_1L = self.recent(user_row_1)
        context_1K = np.zeros((1, len(self.context_names)), np.int32)
        gate_1C, mask_1C = self._model.gates(
            _batch(user_row_1, item_row_1, item_1L, level_1L, context_1K)
        )
        assert self.bundle.knowledge is not None
        texts = len(self.bundle.knowledge.all_chunks)
        gate_C = torch.where(mask_1C > 0, gate_1C, torch.nan).view(texts, -1).mean(1)
        return np.asarray(gate_C.numpy(), np.float32)

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
        batch = _batch(user_row_B, item_row_B, item_BL, level_BL, context_BK)
        logits = [
            self._model(batch.slice(start, start + _MAX_ROWS), without=self._without)
            for start in range(0, len(batch), _MAX_ROWS)
        ]
        scores: Scores = torch.sigmoid(torch.cat(logits)).numpy() if logits else np.empty(0, "f4")
        return scores


def _batch(
    user_row_B: NDArray[np.int32],
    item_row_B: NDArray[np.int32],
    item_BL: NDArray[np.int32],
    level_BL: NDArray[np.int32],
    context_BK: NDArray[np.int32],
) -> Batch:
    return Batch.of(
        Samples.unlabelled(
            user_row_B=user_row_B,
            item_row_B=item_row_B,
            history_item_BL=item_BL,
            history_rating_BL=level_BL.astype(np.int8),
            context_BK=context_BK,
        )
    )
