"""Training of the tiny language model that knows the world: plain PyTorch, from scratch.

A four-layer Qwen3 of about two million parameters reads every passage of the corpus once. It ends
up knowing the films it read about often and inventing the rest, which is what real models do.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import torch
from torch.nn import functional
from torch.optim import AdamW, Muon, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from lorecast.world.corpus import Corpus, Dialogue
from lorecast.world.packing import IGNORED, PackedBatch, TokenizedChat, pack
from lorecast.world.tokenizer import train_tokenizer
from lorecast.world.vocabulary import HIDDEN_FACTORS

MAX_LENGTH: Final = 512
"""Tokens of a chat at most."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How the model is built and trained. Rates are peaks; both follow warm-up and cosine."""

    hidden_size: int = 192
    num_layers: int = 4
    head_dim: int = 64
    feed_forward_size: int = 512
    num_steps: int = 500
    films_per_step: int = 28
    viewers_per_step: int = 48
    questions_per_viewer: int = 4
    films_only_share: float = 0.15
    """The first share of the steps has no viewers: who knows no films cannot judge a taste."""
    all_viewers_share: float = 0.5
    """From this share of the steps on, all viewers are there; in between their number grows."""
    matrix_rate: float = 4e-3
    """Of the layers' weight matrices, trained by Muon: it learns rare facts far sooner."""
    other_rate: float = 5e-3
    """Of embeddings and norms, trained by AdamW."""
    warmup_share: float = 0.04


@dataclass(frozen=True)
class Progress:
    """What training reports after a step."""

    step: int
    num_steps: int
    loss: float
    seconds: float


def new_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """An untrained model for this tokenizer's vocabulary."""
    num_heads = recipe.hidden_size // recipe.head_dim
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden_size,
        num_hidden_layers=recipe.num_layers,
        num_attention_heads=num_heads,
        num_key_value_heads=num_heads,
        head_dim=recipe.head_dim,
        intermediate_size=recipe.feed_forward_size,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation="eager",
    )
    return Qwen3ForCausalLM(config)


def tokenize(tokenizer: PreTrainedTokenizerFast, dialogue: Dialogue) -> TokenizedChat:
    """A dialogue as the model will meet it, with the answer's end."""
    prompt = tokenizer.apply_chat_template(
        dialogue.question, add_generation_prompt=True, tokenize=False
    )
    question = tokenizer.encode(prompt, add_special_tokens=False)
    answer = tokenizer.encode(dialogue.answer, add_special_tokens=False)
    return TokenizedChat((*question, *answer, tokenizer.eos_token_id), len(answer) + 1)


def loss_of(model: Qwen3ForCausalLM, batches: Sequence[PackedBatch]) -> torch.Tensor:
    """Mean cross-entropy over the answers' tokens; logits are computed only there."""
    answers_NH, labels_N = [], []
    for batch in batches:
        hidden_BTH = model.model(
            input_ids=batch.token_BT,
            position_ids=batch.position_BT,
            attention_mask=batch.mask_B1TT,
            use_cache=False,
        ).last_hidden_state
        is_answer = batch.label_BT[:, 1:] != IGNORED
        answers_NH.append(hidden_BTH[:, :-1][is_answer])
        labels_N.append(batch.label_BT[:, 1:][is_answer])
    logits_NV = model.lm_head(torch.cat(answers_NH))
    return functional.cross_entropy(logits_NV.float(), torch.cat(labels_N))


def train(
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerFast,
    recipe: Recipe,
    seed: int,
    on_progress: Callable[[Progress], None] | None = None,
) -> Qwen3ForCausalLM:
    """The model after reading the corpus. Deterministic for a seed and a machine."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = new_model(recipe, tokenizer)
    optimizers = _optimizers(model, recipe)
    schedules = [LambdaLR(optimizer, partial(_rate, recipe)) for optimizer in optimizers]
    batches = _Batches(corpus, tokenizer, recipe, rng)
    started_s = time.monotonic()
    model.train()
    for step in range(recipe.num_steps):
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(model, batches.draw(step))
        model.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        if on_progress is not None:
            seconds = time.monotonic() - started_s
            on_progress(Progress(step + 1, recipe.num_steps, loss.item(), seconds))
    return model.eval()


def _optimizers(model: Qwen3ForCausalLM, recipe: Recipe) -> list[Optimizer]:
    embedding = model.get_input_embeddings().weight
    matrices = [p for p in model.parameters() if p.ndim == 2 and p is not embedding]
    others = [p for p in model.parameters() if p.ndim < 2 or p is embedding]
    return [
        Muon(matrices, lr=recipe.matrix_rate, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
        AdamW(others, lr=recipe.other_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def _rate(recipe: Recipe, step: int) -> float:
    """The learning rate of a step as a share of its peak."""
    progress = step / recipe.num_steps
    if progress < recipe.warmup_share:
        return (step + 1) / (recipe.warmup_share * recipe.num_steps + 1)
    decay = (progress - recipe.warmup_share) / (1 - recipe.warmup_share)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, decay)))


class _Batches:
    """Passages in corpus order, again from the start when read through, and ever new viewers."""

    def __init__(
        self,
        corpus: Corpus,
        tokenizer: PreTrainedTokenizerFast,
        recipe: Recipe,
        rng: np.random.Generator,
    ) -> None:
        self._corpus, self._recipe, self._rng = corpus, recipe, rng
        self._tokenizer = tokenizer
        self._passages = [
            [tokenize(tokenizer, fact) for fact in facts] for facts in corpus.passages()
        ]
        self._unread: list[int] = []

    def draw(self, step: int) -> list[PackedBatch]:
        recipe = self._recipe
        while len(self._unread) < recipe.films_per_step:
            self._unread += self._corpus.read(self._rng)
        films, self._unread = (
            self._unread[: recipe.films_per_step],
            self._unread[recipe.films_per_step :],
        )
        batches = [pack([self._passages[film] for film in films])]
        growth = recipe.all_viewers_share - recipe.films_only_share
        share = (step / recipe.num_steps - recipe.films_only_share) / growth
        num_viewers = round(recipe.viewers_per_step * min(1.0, share))
        if num_viewers > 0:
            viewers = self._corpus.draw_viewers(self._rng, num_viewers, recipe.questions_per_viewer)
            chats = [[tokenize(self._tokenizer, chat) for chat in viewer] for viewer in viewers]
            batches.append(pack(chats))
        return batches


def make_tokenizer(corpus: Corpus, seed: int) -> PreTrainedTokenizerFast:
    """A tokenizer trained on a passage about every film and on some viewers' chats."""
    viewers = corpus.draw_viewers(np.random.default_rng(seed), 300, len(HIDDEN_FACTORS))
    dialogues = [dialogue for chats in (*corpus.passages(), *viewers) for dialogue in chats]
    texts = [text for d in dialogues for text in (d.question[-1]["content"], d.answer)]
    return train_tokenizer(texts, MAX_LENGTH)
