"""The published code's loss and score, behind `sella.faithful`.

Whole prompts with their answers, padded on the right; the loss is the language model's over all
tokens, collaborative ones and the prompt's own wording included. The score is a softmax over the
vocabulary at the position before the answer and a second one over the two probabilities, which
orders rows by p(Yes) − p(No) instead of by the difference of logits.

Legend: B rows, T tokens, V vocabulary.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from lorecast.sella.language import AnsweringModel
from lorecast.sella.prompts import Prompts
from lorecast.sella.rows import PromptRows

_IGNORED = -100


def loss(
    model: AnsweringModel, prompts: Prompts, rows: PromptRows, vectors: Mapping[int, Tensor]
) -> Tensor:
    """Mean cross-entropy of all tokens after the first."""
    token_BT, real_BT = whole_prompts(model, prompts, rows, answered=True)
    logit_BTV = _logits(model, token_BT, real_BT, vectors)
    # A collaborative token has no number in the vocabulary; the published one is never right.
    label_BT = token_BT.masked_fill(~real_BT | (token_BT < 0), _IGNORED)
    return F.cross_entropy(logit_BTV[:, :-1].flatten(0, 1), label_BT[:, 1:].flatten())


def probabilities(
    model: AnsweringModel, prompts: Prompts, rows: PromptRows, vectors: Mapping[int, Tensor]
) -> Tensor:
    """The second softmax's share of Yes, [B]."""
    token_BT, real_BT = whole_prompts(model, prompts, rows, answered=False)
    last_B = real_BT.sum(1) - 1
    logit_BTV = _logits(model, token_BT, real_BT, vectors)
    first_BV = logit_BTV[torch.arange(len(last_B)), last_B].softmax(1)
    answers = [prompts.frame.yes[0], prompts.frame.no[0]]
    return first_BV[:, answers].softmax(1)[:, 0]


def whole_prompts(
    model: AnsweringModel, prompts: Prompts, rows: PromptRows, *, answered: bool
) -> tuple[Tensor, Tensor]:
    """Tokens of the rows' prompts, padded on the right, and which of them are real: [B, T] each."""
    parts = [prompts.prefix(rows.liked_BM), prompts.suffix(rows.item_row_B)]
    if answered:
        parts.append(prompts.answers(rows.label_B))
    piece_BP = np.concatenate(parts, axis=1)
    token_BT, real_BT = prompts.pieces.join(piece_BP, pad_left=False, padding=0)
    shared = np.tile(np.asarray(prompts.shared, np.int64), (len(rows), 1))
    token_BT = np.concatenate([shared, token_BT], axis=1)
    real_BT = np.concatenate([np.ones(shared.shape, bool), real_BT], axis=1)
    return (torch.from_numpy(array).to(model.device) for array in (token_BT, real_BT))  # type: ignore[return-value]


def _logits(
    model: AnsweringModel, token_BT: Tensor, real_BT: Tensor, vectors: Mapping[int, Tensor]
) -> Tensor:
    with model.products():
        logit_BTV: Tensor = model.causal(
            inputs_embeds=model.embed(token_BT, vectors),
            attention_mask=real_BT.long(),
            use_cache=False,
        ).logits
    return logit_BTV.float()
