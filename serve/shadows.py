"""Shadows: models that score what the main one has answered, unseen, and are compared with it.

A request is drawn by its id. It is scored by a thread of its own once its answer is sent; requests
wait for that thread in a short queue, and those that find it full are dropped and counted. Of a
ranking, the items that were answered are scored.
"""

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from queue import Full, Queue
from threading import Thread
from typing import Final

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Histogram, Summary
from starlette.background import BackgroundTask
from starlette.types import Scope

from lorecast.lifecycle.scorer import Query, Scored, Scorer, Scores
from lorecast.serve.assignment import draw
from lorecast.serve.following import LOG
from lorecast.serve.front import SECONDS, noted
from lorecast.serve.swapping import Swap
from lorecast.serve.view import places

_MOST_WAITING: Final = 64
_LOG_BYTES, _LOG_FILES = 64 << 20, 4


@dataclass(frozen=True, kw_only=True)
class Rival:
    """What a shadow scores with."""

    version: str
    scorer: Scorer


@dataclass(frozen=True, kw_only=True)
class Shadow:
    """An arm that answers nobody."""

    share: float
    """Of the requests."""
    swap: Swap[Rival]


@dataclass(frozen=True, kw_only=True)
class Answered:
    """A request, and what the main model made of it."""

    request_id: str
    model: str
    query: Query
    """With the items that were answered."""
    score_N: Scores


class Shadows:
    """All shadows of a replica."""

    def __init__(
        self,
        shadows: Mapping[str, Shadow],
        *,
        salt: str,
        replica: str,
        metrics: CollectorRegistry,
        log: str | None = None,
    ) -> None:
        """`log` is the folder for lines of JSON. Raises OSError if it cannot be written to."""
        self._shadows = shadows
        self._salt = salt
        self._replica = replica
        self._log = None if log is None else _open_log(Path(log), replica)
        self._told: dict[str, str] = {}
        of_shadow = ["replica", "arm", "model"]
        self._requests = Counter(
            "lorecast_shadow_requests",
            "Requests drawn for a shadow: scored, failed, or dropped for lack of time",
            [*of_shadow, "outcome"],
            registry=metrics,
        )
        self._seconds = Histogram(
            "lorecast_shadow_seconds",
            "What a shadow took to score a request",
            of_shadow,
            buckets=SECONDS,
            registry=metrics,
        )
        self._difference = Summary(
            "lorecast_shadow_score_difference",
            "Mean absolute difference to the main model's scores of a request",
            of_shadow,
            registry=metrics,
        )
        self._agreement = Summary(
            "lorecast_shadow_rank_agreement",
            "Spearman's correlation with the main model's ranking of a request, from two items",
            of_shadow,
            registry=metrics,
        )
        self._waiting: Queue[tuple[str, Answered]] = Queue(_MOST_WAITING)
        Thread(target=self._work, name="shadows", daemon=True).start()

    def after(self, scope: Scope, query: Query, scored: Scored) -> BackgroundTask | None:
        """What is to be done once the answer is sent, if the request is drawn."""
        notes = noted(scope)
        request_id = notes["id"]
        drawn = [
            arm
            for arm, shadow in self._shadows.items()
            if draw(f"{self._salt}\0{arm}", request_id) < shadow.share
        ]
        if not drawn:
            return None
        answered = Answered(
            request_id=request_id,
            model=notes["model"],
            query=query._replace(item_ids=scored.item_ids),
            score_N=scored.score_N,
        )
        return BackgroundTask(self._offer, drawn, answered)

    def drain(self) -> None:
        """Returns once nothing waits any more."""
        self._waiting.join()

    async def _offer(self, drawn: list[str], answered: Answered) -> None:
        for arm in drawn:
            try:
                self._waiting.put_nowait((arm, answered))
            except Full:
                self._count(arm, self._shadows[arm].swap.version, "dropped")

    def _work(self) -> None:
        while True:
            arm, answered = self._waiting.get()
            rival = self._shadows[arm].swap.now
            try:
                self._score(arm, rival, answered)
            except Exception as error:  # whatever is wrong with a shadow, answers go on
                self._count(arm, rival.version, "failed")
                told, self._told[arm] = self._told.get(arm), f"{rival.version}: {error!r}"
                if told != self._told[arm]:
                    LOG.error(f"the shadow {arm} failed: {self._told[arm]}")
            finally:
                self._waiting.task_done()

    def _score(self, arm: str, rival: Rival, answered: Answered) -> None:
        started = time.perf_counter()
        score_N = rival.scorer.candidates(*answered.query).score_N
        labels = self._replica, arm, rival.version
        self._seconds.labels(*labels).observe(time.perf_counter() - started)
        self._difference.labels(*labels).observe(float(np.abs(score_N - answered.score_N).mean()))
        if len(score_N) > 1:
            self._agreement.labels(*labels).observe(rank_agreement(score_N, answered.score_N))
        self._count(arm, rival.version, "scored")
        if self._log is not None:
            self._log.info(_line(arm, rival, answered, score_N))

    def _count(self, arm: str, model: str, outcome: str) -> None:
        self._requests.labels(self._replica, arm, model, outcome).inc()


def rank_agreement(one_N: Scores, other_N: Scores) -> float:
    """Spearman's correlation of the rankings by these scores; ties keep their order. N ≥ 2."""
    N = len(one_N)
    apart = float(((places(one_N) - places(other_N)) ** 2).sum())
    return 1 - 6 * apart / (N * (N * N - 1))


def _line(arm: str, rival: Rival, answered: Answered, score_N: Scores) -> str:
    line = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "id": answered.request_id,
        "user_id": answered.query.user_id,
        "item_ids": answered.query.item_ids,
        "model": answered.model,
        "scores": answered.score_N.tolist(),
        "arm": arm,
        "arm_model": rival.version,
        "arm_scores": score_N.tolist(),
    }
    return json.dumps(line)


def _open_log(folder: Path, replica: str) -> logging.Logger:
    folder.mkdir(parents=True, exist_ok=True)
    handler = RotatingFileHandler(
        folder / f"shadows-{replica}.jsonl",
        maxBytes=_LOG_BYTES,
        backupCount=_LOG_FILES - 1,
        encoding="utf-8",
    )
    handler.setFormatter(logging.Formatter("%(message)s"))
    log = logging.Logger("lorecast.shadows", logging.INFO)
    log.addHandler(handler)
    return log
