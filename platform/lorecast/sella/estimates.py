"""What SeLLa's stages would read, compute and hold in memory, before anything is trained.

Work is 2 FLOPs a weight and token forward. A training counts twice that for tokens that gradients
pass through, frozen weights having no gradient of their own, and three times where activations are
made anew (`sella.gradient_checkpointing`).
Attention among tokens, padding and the sampling of batches are left out.

Legend: B rows, M titles shown.
"""

from dataclasses import dataclass
from math import ceil
from typing import Literal

import numpy as np

from lorecast.config import AlignConfig, SellaConfig
from lorecast.sella.guide import Guide
from lorecast.sella.prompts import Prompts
from lorecast.sella.rows import PromptRows
from lorecast.sella.sizes import Found, Sizes, kept_bytes, parameter_counts, sizes

_LEARNT_BYTES = 20
"""Of a learned float32 number: itself, its gradient, AdamW's two moments, the best check's copy."""
_FROZEN_BYTES = 4
_LOGIT_BYTES = 12
"""Of a logit of the loss over all tokens, beside itself: float32, log-probability, gradient."""
Learns = Literal["all", "suffix", "nothing"]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the language model reads of some rows in one pass."""

    rows: int
    tokens: int
    """Of all prompts, each whole."""
    read: int
    """Of them, those that are computed; beginnings that rows share count once."""
    learnt: int
    """Of them, those that gradients pass through."""
    longest: int
    """Of one prompt."""
    longest_learnt: int
    """Of one prompt, those that gradients pass through."""
    shared: int
    """Of the beginning that all prompts have."""

    @property
    def mean(self) -> float:
        return self.tokens / max(1, self.rows)


def reading(
    prompts: Prompts, rows: PromptRows, batch_size: int, *, learns: Learns = "nothing"
) -> Reading:
    """What of these rows is read `batch_size` at a time. `learns`: where gradients pass, `suffix`
    meaning all where the prompts are faithful."""
    prefix, suffix = prompts.prefix(rows.liked_BM), prompts.suffix(rows.item_row_B)
    lengths = prompts.pieces.lengths
    prefix_B, suffix_B = lengths(prefix), lengths(suffix)
    shared = len(prompts.shared)
    whole_B = shared + prefix_B + suffix_B
    if prompts.faithful and learns != "nothing":
        whole_B = whole_B + lengths(prompts.answers(rows.label_B))
    read = int(whole_B.sum())
    if prompts.faithful and learns == "suffix":
        learns = "all"
    learnt_B = {"all": whole_B, "suffix": suffix_B, "nothing": np.zeros_like(suffix_B)}[learns]
    learnt = int(learnt_B.sum())
    if not prompts.faithful:
        # The beginning anew in each batch while adapters learn; once where nothing changes it.
        beginnings = ceil(len(rows) / batch_size) if learns == "all" else 1
        once = int(lengths(np.unique(prefix, axis=0)).sum())
        read = shared * beginnings + once + int(suffix_B.sum())
        learnt = min(learnt, read)
    return Reading(
        rows=len(rows),
        tokens=int(whole_B.sum()),
        read=read,
        learnt=learnt,
        longest=int(whole_B.max(initial=0)),
        longest_learnt=int(learnt_B.max(initial=0)),
        shared=shared,
    )


def training_passes(config: SellaConfig) -> int:
    """How often a token that gradients pass through costs what it costs forward."""
    return 3 if config.gradient_checkpointing else 2


def flops(of: Reading, model: Sizes, config: SellaConfig) -> float:
    """FLOPs of one pass over these rows. The published code computes all tokens' logits."""
    weights = model.per_token + (model.output if config.faithful else 0)
    return 2.0 * weights * (of.read + (training_passes(config) - 1) * of.learnt)


def align_flops(align: AlignConfig, rows: int, width: int | None) -> float:
    """FLOPs of all passes of stage 2.2, if none ends it early: tables, and projection and contrast
    where items are drawn to vectors of that width."""
    a_row = align.dim
    if width is not None:
        a_row += align.hidden * (align.dim + width) + width * min(rows, align.batch_size)
    return 2.0 * 3 * a_row * rows * align.epochs


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of one worker by what takes them; `kept` and `anew` are alternatives."""

    weights: int
    learnt: int = 0
    """Adapters or tokens' tables with gradients and AdamW's moments."""
    kept: int = 0
    """Activations of a micro batch until the backward pass."""
    anew: int = 0
    """The same where each layer's are made anew in the backward pass (gradient checkpointing)."""
    logits: int = 0
    cache: int = 0
    """Keys and values of a batch's prompts."""
    shared: int = 0
    """Of them, those of the beginning that all prompts share."""

    @property
    def all_kept(self) -> int:
        """With activations kept."""
        return self.weights + self.learnt + self.kept + self.logits + self.cache

    @property
    def all_anew(self) -> int:
        """With gradient checkpointing."""
        return self.all_kept - self.kept + self.anew


class ModelNeeds:
    """What the stages of one experiment hold in memory with their language model."""

    def __init__(self, config: SellaConfig, found: Found) -> None:
        """Raises TrainingError if no layer can get adapters."""
        self._config = config
        self.sizes, self.language = sizes(found, config.lora, config.dtype)
        self._weights = self.sizes.parameters * self.sizes.bytes_each

    def tune(self, of: Reading) -> Memory:
        """Stage 1."""
        return self._training(of, self.sizes.adapters * _LEARNT_BYTES, adapters_learn=True)

    def guide(self, of: Reading, guide: Guide, *, one_stage: bool) -> Memory:
        """Stage 3; the prefix keeps nothing but keys and values unless adapters learn."""
        learned, frozen = parameter_counts(guide)
        adapters = self.sizes.adapters * (_LEARNT_BYTES if one_stage else _FROZEN_BYTES)
        held = learned * _LEARNT_BYTES + frozen * _FROZEN_BYTES + adapters
        return self._training(of, held, adapters_learn=one_stage)

    def score(self, of: Reading) -> Memory:
        """The test part, `sella.score_batch` rows at once."""
        config, most = self._config, self.sizes
        tokens = config.score_batch * of.longest
        of_a_layer = kept_bytes(self.language, of.longest, adapters_learn=False) // most.layers
        logits = tokens * most.vocabulary * (most.bytes_each + 4) if config.faithful else 0
        held = of_a_layer * config.score_batch
        return Memory(
            weights=self._weights,
            learnt=most.adapters * _FROZEN_BYTES,
            kept=held,
            anew=held,
            logits=logits,
            **self._cache(of, config.score_batch),
        )

    def _training(self, of: Reading, held: int, *, adapters_learn: bool) -> Memory:
        rows, most = self._config.micro_batch, self.sizes
        kept = kept_bytes(self.language, of.longest_learnt, adapters_learn=adapters_learn)
        inputs = most.layers * of.longest_learnt * most.width * most.bytes_each
        a_logit = most.bytes_each + _LOGIT_BYTES
        return Memory(
            weights=self._weights,
            learnt=held,
            kept=rows * kept,
            anew=rows * (kept // most.layers + inputs),
            logits=rows * of.longest * most.vocabulary * a_logit if self._config.faithful else 0,
            **self._cache(of, rows),
        )

    def _cache(self, of: Reading, rows: int) -> dict[str, int]:
        """The published code reads whole prompts and keeps none."""
        if self._config.faithful:
            return {}
        each = self.sizes.cache_bytes
        return {"cache": rows * of.longest * each, "shared": of.shared * each}


def steps(rows: int, batch_size: int, epochs: int) -> int:
    """Optimizer steps of a training."""
    return epochs * max(1, ceil(rows / batch_size))


def hours(work: float, tflops: float, utilisation: float, workers: int) -> float:
    """Of `work` FLOPs on so many devices of `tflops` each, used to that share."""
    return work / (tflops * 1e12 * utilisation * workers) / 3600
