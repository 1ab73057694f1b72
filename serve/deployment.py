"""The Ray Serve deployment: each replica loads the bundle and answers HTTP itself."""

import asyncio
import sys
from typing import Any

import torch
from ray import serve
from ray.serve.config import AutoscalingConfig, BackpressureConfig
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from lorecast.config import ServingConfig
from lorecast.serve.app import create_app
from lorecast.serve.following import LOG, Follow, Target
from lorecast.serve.front import front
from lorecast.serve.guard import token_digest
from lorecast.serve.overload import RETRY_AFTER_S
from lorecast.serve.schema import FollowAnswer
from lorecast.serve.swapping import Swap, ready
from lorecast.serve.watcher import TICK_S, News, bind_watcher

_NEWS_TIMEOUT_S = 10.0
_SWITCH_S = 0.0005
"""After which the thread that loads a model lets requests go on. With Python's 5 ms, the p99 of
scoring beside it was 1.3 to 3.5 times as long (three runs of 3 s each)."""
_SCALING = {
    "metrics_interval_s": 1.0,
    "look_back_period_s": 5.0,
    "upscale_delay_s": 3.0,
    "downscale_delay_s": 60.0,
}
"""Up within seconds, since requests wait; down after a minute, since load that left may return."""


class ScorerReplica:
    """One process that scores, with one thread: replicas are what adds cores."""

    def __init__(
        self,
        first: Target,
        serving: ServingConfig,
        tolerance: float,
        watcher: DeploymentHandle | None,
        token_digest: str | None,
    ) -> None:
        torch.set_num_threads(1)
        sys.setswitchinterval(_SWITCH_S)
        self._first = first
        self._serving = serving
        self._tolerance = tolerance
        self._watcher = watcher
        self._token_digest = token_digest
        self._trouble: str | None = None
        self._following: asyncio.Task[None] | None = None

    async def __serve_build_asgi_app__(self) -> ASGIApp:  # Ray Serve calls it after __init__
        first = self._first
        if self._watcher is not None and (news := await self._ask(first.version, None)):
            first = news.wanted
        self._swap = Swap(self._load, first)
        if self._watcher is not None:
            self._following = asyncio.create_task(self._follow())
        return front(
            self._swap,
            token_digest=self._token_digest,
            replica=serve.get_replica_context().replica_id.unique_id,
            access_log=self._serving.access_log,
        )

    def _load(self, target: Target) -> ASGIApp:
        """The application of a bundle; may run beside the one that answers."""
        device = "cuda" if self._serving.gpus else "cpu"
        return create_app(
            ready(target, device, self._tolerance),
            model_version=target.version,
            max_items=self._serving.max_items,
            follows=self._state if self._watcher is not None else None,
        )

    def check_health(self) -> None:
        """Runs where requests do, so a replica that is stuck is found, too, and replaced."""
        if self._following is not None and self._following.done():
            raise RuntimeError("the registry is not followed any more")

    async def _follow(self) -> None:
        assert self._watcher is not None
        while True:
            await asyncio.sleep(TICK_S)
            serving = self._swap.version
            if news := await self._ask(serving, self._swap.trouble):
                await self._swap.follow(news.wanted)
                if self._swap.version != serving:
                    self._watcher.swapped.remote(self._swap.version)

    async def _ask(self, serving: str, trouble: str | None) -> News | None:
        """What is wanted; none while the watcher does not answer, as after the loss of its node."""
        assert self._watcher is not None
        try:
            news: News = await asyncio.wait_for(
                self._watcher.news.remote(serving, trouble), _NEWS_TIMEOUT_S
            )
        except Exception as error:  # Ray's errors share no base but this
            told, self._trouble = self._trouble, f"the watcher does not answer: {error!r}"
            if told != self._trouble:
                LOG.error(f"{serving} goes on: {self._trouble}")
            return None
        self._trouble = news.trouble
        return news

    def _state(self) -> FollowAnswer:
        return FollowAnswer(
            swaps=self._swap.swaps,
            failures=self._swap.failures,
            trouble=self._swap.trouble or self._trouble,
        )


def _num_replicas(serving: ServingConfig) -> dict[str, Any]:
    if serving.max_replicas is None:
        return {"num_replicas": serving.replicas}
    scaling = AutoscalingConfig(
        min_replicas=serving.replicas,
        max_replicas=serving.max_replicas,
        target_ongoing_requests=serving.target_ongoing,
        **_SCALING,
    )
    return {"autoscaling_config": scaling}


def bind(
    first: Target, serving: ServingConfig, *, tolerance: float, follow: Follow | None
) -> serve.Application:
    """The application for `serve.run`.

    `first` must be readable where replicas run, and so must be what `follow` downloads. Scores of
    check rows may be off by `tolerance`.
    """
    deployment = serve.deployment(
        serve.ingress()(ScorerReplica),
        name="scorer",
        ray_actor_options={"num_gpus": serving.gpus},
        max_ongoing_requests=serving.max_ongoing,
        max_queued_requests=serving.max_queued,
        backpressure_config=BackpressureConfig(retry_after_s=RETRY_AFTER_S),
        max_constructor_retry_count=1,
        **_num_replicas(serving),
    )
    watcher: Any = None if follow is None else bind_watcher(follow, first)
    return deployment.bind(first, serving, tolerance, watcher, token_digest(serving))
