"""Scores by an engine that reads prompts as embeddings, in place of the model's own forward pass.

Embeddings are ours: words from the frozen table, collaborative tokens from the guide. The engine
gives log-probabilities of the two answers, whose difference is logit(Yes) − logit(No).

Legend: B rows, T tokens, H width of the language model.
"""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lorecast.errors import EngineError
from lorecast.sella.faithful import whole_prompts
from lorecast.sella.rows import PromptRows
from lorecast.sella.yes_no import YesNoModel

Ask = Callable[[Sequence[Tensor]], NDArray[np.float64]]
"""Log-probabilities of Yes and No after each prompt, over the whole vocabulary: [B, 2]. Prompts are
embeddings, [T, H] each."""
_COMPARED: Final = 8
_FURTHEST: Final = {"float32": 1e-3, "bfloat16": 0.05}
"""Between two probabilities of one row: above, the engine computes something else."""


class AskedModel:
    """A model whose language model runs in an engine."""

    def __init__(self, model: YesNoModel, ask: Ask, batch_size: int) -> None:
        self._model, self._ask, self._batch_size = model.eval(), ask, batch_size
        self._is_compared = False

    def score_rows(self, rows: PromptRows) -> NDArray[np.float32]:
        """Probabilities of Yes, [B]; rows with the same prefix are asked side by side.

        Raises EngineError if the first ones are not what the plain forward pass gives.
        """
        if not self._is_compared:
            self._compare(rows.take(slice(0, _COMPARED)))
            self._is_compared = True
        order = np.argsort(rows.prefixes(), kind="stable")
        probability_B = np.empty(len(rows), np.float32)
        for start in range(0, len(rows), self._batch_size):
            index = order[start : start + self._batch_size]
            probability_B[index] = self._probabilities(rows.take(index))
        return probability_B

    def _probabilities(self, rows: PromptRows) -> NDArray[np.float64]:
        log_B2 = self._ask(embedded(self._model, rows))
        answer_B2 = np.exp(log_B2) if self._model.prompts.faithful else log_B2
        probability_B: NDArray[np.float64] = 1.0 / (1.0 + np.exp(answer_B2[:, 1] - answer_B2[:, 0]))
        return probability_B

    def _compare(self, rows: PromptRows) -> None:
        ours_B = self._model.probabilities(rows, len(rows))
        worst = float(np.abs(self._probabilities(rows) - ours_B).max())
        dtype = str(self._model.language.causal.dtype).removeprefix("torch.")
        if not worst <= _FURTHEST[dtype]:
            raise EngineError(
                f"the engine's probabilities differ from the plain forward pass's by {worst:.2g}: "
                f"it reads embeddings of {self._model.language.tokenizer.name_or_path} as another "
                "model; set sella.score_engine=torch"
            )


@torch.no_grad()
def embedded(model: YesNoModel, rows: PromptRows) -> list[Tensor]:
    """The rows' whole prompts as the language model reads them, [T, H] each, without padding."""
    token_BT, real_BT = whole_prompts(model.language, model.prompts, rows, answered=False)
    embedded_BTH = model.language.embed(token_BT, model.vectors(rows))
    lengths = real_BT.sum(1).tolist()
    return [row_TH[:length] for row_TH, length in zip(embedded_BTH, lengths, strict=True)]
