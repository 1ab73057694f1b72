"""A language model before its prompts, with or without a guide: trained and scored by rows.

Legend: B rows.
"""

from collections.abc import Callable
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from lorecast.sella import faithful
from lorecast.sella.fitting import figures
from lorecast.sella.guide import Guide
from lorecast.sella.language import AnsweringModel, PromptBatch
from lorecast.sella.prompts import Prompts
from lorecast.sella.rows import PromptRows
from lorecast.sella.shares import Workers


class YesNoModel(nn.Module):
    """Language model, wording and guide (none: text alone). Pays for two rows of the output layer
    and one position, unless the prompts are `faithful`."""

    def __init__(self, language: AnsweringModel, prompts: Prompts, guide: Guide | None) -> None:
        super().__init__()
        self.language, self.prompts, self.guide = language, prompts, guide
        language.check_length(prompts)
        if not prompts.faithful:
            language.answers_only(prompts)

    def train(self, mode: bool = True) -> Self:
        """A language model that is frozen stays in evaluation mode."""
        super().train(mode)
        if not any(parameter.requires_grad for parameter in self.language.parameters()):
            self.language.eval()
        return self

    def loss(self, rows: PromptRows) -> Tensor:
        """Mean over rows; of the answer alone unless faithful."""
        if self.prompts.faithful:
            return faithful.loss(self.language, self.prompts, rows, self.vectors(rows))
        label_B = torch.from_numpy(rows.label_B).to(self.language.device)
        return F.binary_cross_entropy_with_logits(self._logit(rows), label_B)

    @torch.no_grad()
    def probabilities(
        self,
        rows: PromptRows,
        batch_size: int,
        on_rows: Callable[[int], None] = lambda _: None,
    ) -> NDArray[np.float32]:
        """Of Yes, [B]; rows with the same prefix, and of like length, go together."""
        self.eval()
        prefix = self.prompts.prefix(rows.liked_BM)
        _, group_B = np.unique(prefix, axis=0, return_inverse=True)
        order = np.lexsort((group_B.reshape(-1), self.prompts.pieces.lengths(prefix)))
        probability_B = np.empty(len(rows), np.float32)
        for start in range(0, len(rows), batch_size):
            index = order[start : start + batch_size]
            part = rows.take(index)
            if self.prompts.faithful:
                found = faithful.probabilities(
                    self.language, self.prompts, part, self.vectors(part)
                )
            else:
                found = self._logit(part).sigmoid()
            probability_B[index] = found.cpu().numpy()
            on_rows(len(index))
        return probability_B

    def _logit(self, rows: PromptRows) -> Tensor:
        batch = PromptBatch.of(self.prompts, rows, self.language.device)
        vectors = self.guide(batch.user_row_B, batch.item_row_B) if self.guide else None
        return self.language.logit(self.prompts, batch, vectors)

    def vectors(self, rows: PromptRows) -> dict[int, Tensor]:
        """What stands in the slots of the rows' prompts, [B, H] each."""
        if self.guide is None:
            return {}
        entities = (rows.user_row_B, rows.item_row_B)
        user_B, item_B = (torch.from_numpy(e).long().to(self.language.device) for e in entities)
        vectors: dict[int, Tensor] = self.guide(user_B, item_B)
        return vectors


class YesNoLearner(nn.Module):
    """The model before its training and validation rows; see `fitting.Learner`."""

    divides = True

    def __init__(
        self, model: YesNoModel, train: PromptRows, valid: PromptRows, score_batch: int
    ) -> None:
        super().__init__()
        self.model = model
        self._train, self._valid, self._score_batch = train, valid, score_batch
        prompts = model.prompts
        self._shapes = train.prefixes(), prompts.pieces.lengths(prompts.prefix(train.liked_BM))

    def forward(self, index_B: NDArray[np.int64]) -> Tensor:
        """Mean loss of training rows."""
        return self.model.loss(self._train.take(index_B))

    def shapes(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Training rows' prefixes, and the prefixes' lengths."""
        return self._shapes

    def __len__(self) -> int:
        return len(self._train)

    def validate(self) -> dict[str, float]:
        """Figures of the validation rows, which processes share."""
        probability_B = Workers.current().scored(
            self._valid.prefixes(),
            lambda index: self.model.probabilities(self._valid.take(index), self._score_batch),
        )
        return figures(self._valid.user_row_B, self._valid.label_B, probability_B)
