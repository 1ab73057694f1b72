"""The gate: challenger and champion on the same frozen rows, each through its own bundle.

It measures; `policy` decides. Legend: B rows, U users, R draws.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lorecast.config import PromotionConfig, Side
from lorecast.errors import PromotionError
from lorecast.evaluation.metrics import auc
from lorecast.evaluation.uncertainty import plain, redraw, statistics
from lorecast.lifecycle.bundle import Bundle
from lorecast.lifecycle.check_rows import largest_difference
from lorecast.lifecycle.evidence import Cold, Compared, Evidence, Latency, Rows
from lorecast.lifecycle.frozen import FrozenSlice
from lorecast.lifecycle.inputs import inputs_of, scores_without
from lorecast.lifecycle.leaks import leaks
from lorecast.lifecycle.policy import is_implausible
from lorecast.lifecycle.scorer import Scorer, Scores

_METRICS = ("auc", "gauc", "log_loss", "ece")
_FEWEST_ROWS, _FEWEST_USERS = 50, 10
"""Of cold rows; fewer say nothing."""


@dataclass(frozen=True)
class Contender:
    """A version and the scorer of its bundle, on the frozen rows."""

    version: str
    scorer: Scorer
    frozen: FrozenSlice

    @cached_property
    def score_B(self) -> Scores:
        """Its scores of the rows."""
        return self.frozen.requests.scores(self.scorer)


def examine(
    champion: Contender,
    challenger: Contender,
    policy: PromotionConfig,
    workspace: Path,
    on_step: Callable[[], None] = lambda: None,
) -> Evidence:
    """All evidence about a challenger; `on_step` is called STEPS times.

    `workspace` holds the prepared datasets. Raises PromotionError if the rows hold only one class.
    """
    frozen = challenger.frozen
    user_B, label_B = frozen.samples.user_row_B, frozen.samples.label_B
    clicks = int((label_B == 1).sum())
    if not 0 < clicks < len(frozen):
        raise PromotionError(
            f"the {frozen.split} part's rows for the gate are all clicks or all none: raise "
            "promotion.rows, or name another promotion.split"
        )
    champion_B = champion.score_B
    on_step()
    challenger_B = challenger.score_B
    on_step()
    scores = champion_B, challenger_B
    figures = _compared(user_B, label_B, scores, policy)
    cold = {
        side: _cold(user_B, label_B, scores, policy, mask_B)
        for side, mask_B in frozen.cold(policy).items()
    }
    on_step()
    timed = _latency(champion.scorer, challenger.scorer, frozen, policy)
    on_step()
    hidden = _auc_without(challenger) if is_implausible(figures["auc"], policy) else {}
    on_step()
    return Evidence(
        champion=champion.version,
        challenger=challenger.version,
        rows=Rows(
            dataset=frozen.dataset.fingerprint,
            split=frozen.split,
            fingerprint=frozen.fingerprint,
            rows=len(frozen),
            users=len(np.unique(user_B)),
            clicks=clicks,
        ),
        figures=figures,
        cold=cold,
        coverage=_coverage(challenger),
        latency=timed,
        parity=largest_difference(challenger.scorer),
        leaks=leaks(challenger.scorer.bundle, frozen, workspace),
        champion_leaks=leaks(champion.scorer.bundle, frozen, workspace),
        auc_without=hidden,
    )


STEPS = 5


def _compared(
    user_B: NDArray[np.integer],
    label_B: NDArray[np.integer],
    scores: tuple[Scores, Scores],
    policy: PromotionConfig,
    metrics: tuple[str, ...] = _METRICS,
) -> dict[str, Compared]:
    """By metric; users are drawn anew, the same ones for both."""
    users, owner_B = np.unique(user_B, return_inverse=True)
    both = [
        statistic
        for score_B in scores
        for statistic in statistics(owner_B, label_B, score_B, metrics).values()
    ]
    value = np.array([plain(each, len(users)) for each in both]).reshape(2, -1)
    redrawn = redraw(both, len(users), resamples=policy.resamples, seed=policy.seed)
    gained_MR = redrawn[len(metrics) :] - redrawn[: len(metrics)]
    outside = (1 - policy.confidence) / 2
    low_M, high_M = np.nanquantile(gained_MR, [outside, 1 - outside], axis=1)
    return {
        metric: Compared(
            champion=value[0, place],
            challenger=value[1, place],
            difference=value[1, place] - value[0, place],
            low=low_M[place],
            high=high_M[place],
        )
        for place, metric in enumerate(metrics)
    }


def _cold(
    user_B: NDArray[np.integer],
    label_B: NDArray[np.integer],
    scores: tuple[Scores, Scores],
    policy: PromotionConfig,
    mask_B: NDArray[np.bool_],
) -> Cold:
    user_B, label_B = user_B[mask_B], label_B[mask_B]
    rows, users, clicks = len(label_B), len(np.unique(user_B)), int((label_B == 1).sum())
    is_enough = rows >= _FEWEST_ROWS and users >= _FEWEST_USERS and 0 < clicks < rows
    if not is_enough:
        return Cold(rows=rows, users=users, auc=None)
    scores = scores[0][mask_B], scores[1][mask_B]
    compared = _compared(user_B, label_B, scores, policy, ("auc",))
    return Cold(rows=rows, users=users, auc=compared["auc"])


def _latency(
    champion: Scorer, challenger: Scorer, frozen: FrozenSlice, policy: PromotionConfig
) -> Latency:
    """Both answer the same requests in turns; who begins changes with every request."""
    item_ids = (frozen.ids("item") * policy.latency_items)[: policy.latency_items]
    requests = frozen.requests
    taken_s = np.empty((policy.latency_rounds, 2))
    for scorer in (champion, challenger):
        scorer.warm_up()
    for turn in range(-3, policy.latency_rounds):  # three to get warm
        row = (turn * 7919) % len(requests)
        order = (0, 1) if turn % 2 else (1, 0)
        for which in order:
            scorer = (champion, challenger)[which]
            names = set(scorer.context_names)
            context = {k: v for k, v in requests.contexts[row].items() if k in names}
            started_s = time.perf_counter()
            scorer.candidates(requests.user_ids[row], item_ids, requests.histories[row], context)
            taken_s[turn, which] = time.perf_counter() - started_s
    champion_ms, challenger_ms = np.median(taken_s, axis=0) * 1000
    ratio = float(np.median(taken_s[:, 1] / taken_s[:, 0]))
    return Latency(champion_ms=float(champion_ms), challenger_ms=float(challenger_ms), ratio=ratio)


def _coverage(challenger: Contender) -> Mapping[Side, float | None]:
    bundle = challenger.scorer.bundle
    if not isinstance(bundle, Bundle) or bundle.knowledge is None:
        return {}
    shares: dict[Side, float | None] = {}
    for side in bundle.knowledge.sides:
        has_text_R = bundle.has_text(side)
        rows = challenger.scorer.rows(side, challenger.frozen.ids(side))
        shares[side] = None if has_text_R is None else float(has_text_R[rows].mean())
    return shares


def _auc_without(challenger: Contender) -> dict[str, float]:
    """AUC with each input hidden, by its name."""
    requests, label_B = challenger.frozen.requests, challenger.frozen.samples.label_B
    return {
        str(each): auc(label_B, scores_without(challenger.scorer, each, requests))
        for each in inputs_of(challenger.scorer.bundle)
    }
