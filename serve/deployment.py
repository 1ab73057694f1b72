"""The Ray Serve deployment: each replica loads the bundle and answers HTTP itself."""

import asyncio
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from prometheus_client import CollectorRegistry
from ray import serve
from ray.serve.config import AutoscalingConfig, BackpressureConfig, RequestRouterConfig
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from lorecast.config import MAIN_ARM, ServingConfig
from lorecast.lifecycle.scorer import Scorer
from lorecast.serve.app import create_app, max_bytes
from lorecast.serve.arms import Arms, shares
from lorecast.serve.following import LOG, Source, Target, of_arm
from lorecast.serve.front import front
from lorecast.serve.guard import token_digest
from lorecast.serve.overload import RETRY_AFTER_S
from lorecast.serve.schema import ArmAnswer, FollowAnswer
from lorecast.serve.shadows import Rival, Shadow, Shadows
from lorecast.serve.swapping import Swap, ready
from lorecast.serve.watcher import TICK_S, News, State, bind_watcher

_NEWS_TIMEOUT_S = 10.0
_SWITCH_S = 0.0005
"""After which the thread that loads a model lets requests go on. With Python's 5 ms, the p99 of
scoring beside it was 1.3 to 3.5 times as long (three runs of 3 s each)."""
_LONGEST_LOOK_S = 0.05
"""Between two looks of the proxy for a replica with room, when all are full. With Ray's 0.5 a
replica is done with what it had long before it gets more: beyond capacity it idled two thirds of
the time."""
_SCALING = {
    "metrics_interval_s": 0.25,
    "look_back_period_s": 10.0,
    "upscale_delay_s": 3.0,
    "downscale_delay_s": 60.0,
}
"""Up within seconds, since requests wait; down after a minute, since load that left may return.
Ray counts the requests under way at these moments only: the mean of five counts, one a second, is
so rough that two replicas came without cause and four did not go for minutes."""


class ScorerReplica:
    """One process that scores, with one thread: replicas are what adds cores."""

    def __init__(
        self,
        sources: Mapping[str, Source],
        serving: ServingConfig,
        tolerance: float,
        watcher: DeploymentHandle | None,
        token_digest: str | None,
    ) -> None:
        torch.set_num_threads(1)
        sys.setswitchinterval(_SWITCH_S)
        self._sources = sources
        self._serving = serving
        self._tolerance = tolerance
        self._watcher = watcher
        self._token_digest = token_digest
        self._replica = serve.get_replica_context().replica_id.unique_id
        self._metrics = CollectorRegistry()
        self._shadows: Shadows | None = None
        self._troubles: dict[str, str | None] = {}
        self._following: asyncio.Task[None] | None = None

    async def __serve_build_asgi_app__(self) -> ASGIApp:  # Ray Serve calls it after __init__
        first = {arm: source.first for arm, source in self._sources.items()}
        states = {arm: State(serving=each.version, trouble=None) for arm, each in first.items()}
        first |= {arm: news.wanted for arm, news in (await self._ask(states)).items()}
        rivals = self._shadow(first)
        apps = {
            arm: Swap(partial(self._load, arm), target)
            for arm, target in first.items()
            if arm not in rivals
        }
        self._swaps: dict[str, Swap[Any]] = {**apps, **rivals}
        if self._watcher is not None:
            self._following = asyncio.create_task(self._follow())
        serving = self._serving
        return front(
            apps[MAIN_ARM] if not serving.arms else self._arms(apps),
            token_digest=self._token_digest,
            replica=self._replica,
            access_log=serving.access_log,
            metrics=self._metrics,
        )

    def _shadow(self, first: Mapping[str, Target]) -> dict[str, Swap[Rival]]:
        """The models that answer nobody, by arm; `self._shadows` has them score."""
        shadows = {
            arm: Shadow(share=each.shadow, swap=Swap(partial(self._load_rival, arm), first[arm]))
            for arm, each in self._serving.arms.items()
            if each.shadow is not None
        }
        if shadows:
            self._shadows = Shadows(
                shadows,
                salt=self._serving.arms_salt,
                replica=self._replica,
                metrics=self._metrics,
                log=self._serving.shadow_log,
            )
        return {arm: shadow.swap for arm, shadow in shadows.items()}

    def _arms(self, apps: Mapping[str, ASGIApp]) -> Arms:
        return Arms(
            apps,
            self._serving.arms,
            salt=self._serving.arms_salt,
            max_bytes=max_bytes(self._serving.max_items),
            replica=self._replica,
            metrics=self._metrics,
        )

    def _load(self, arm: str, target: Target) -> ASGIApp:
        """The application of a bundle; may run beside the one that answers."""
        is_main = arm == MAIN_ARM
        return create_app(
            self._ready(arm, target),
            model_version=target.version,
            max_items=self._serving.max_items,
            follows=partial(self._follows, arm) if self._sources[arm].follow else None,
            arm=arm if self._serving.arms else None,
            arms=self._tell_arms if is_main and self._serving.arms else None,
            shadows=self._shadows if is_main else None,
        )

    def _load_rival(self, arm: str, target: Target) -> Rival:
        return Rival(version=target.version, scorer=self._ready(arm, target))

    def _ready(self, arm: str, target: Target) -> Scorer:
        with of_arm(arm):
            device = "cuda" if self._serving.gpus else "cpu"
            return ready(target, device, self._tolerance)

    def check_health(self) -> None:
        """Runs where requests do, so a replica that is stuck is found, too, and replaced."""
        if self._following is not None and self._following.done():
            raise RuntimeError("the registry is not followed any more")

    async def _follow(self) -> None:
        assert self._watcher is not None
        while True:
            await asyncio.sleep(TICK_S)
            states = {
                arm: State(serving=swap.version, trouble=swap.trouble)
                for arm, swap in self._swaps.items()
            }
            for arm, news in (await self._ask(states)).items():
                swap = self._swaps[arm]
                await swap.follow(news.wanted)
                if swap.version != states[arm].serving:
                    self._watcher.swapped.remote(arm, swap.version)

    async def _ask(self, states: Mapping[str, State]) -> dict[str, News]:
        """What is wanted, by arm; nothing where no arm follows, and while the watcher does not
        answer, as after the loss of its node."""
        if self._watcher is None:
            return {}
        try:
            news: dict[str, News] = await asyncio.wait_for(
                self._watcher.news.remote(states), _NEWS_TIMEOUT_S
            )
        except Exception as error:  # Ray's errors share no base but this
            lost = f"the watcher does not answer: {error!r}"
            if lost not in self._troubles.values():
                LOG.error(f"{states[MAIN_ARM].serving} goes on: {lost}")
            self._troubles = dict.fromkeys(states, lost)
            return {}
        self._troubles = {arm: each.trouble for arm, each in news.items()}
        return news

    def _follows(self, arm: str) -> FollowAnswer:
        swap = self._swaps[arm]
        return FollowAnswer(
            swaps=swap.swaps,
            failures=swap.failures,
            trouble=swap.trouble or self._troubles.get(arm),
        )

    def _tell_arms(self) -> dict[str, ArmAnswer]:
        arms = self._serving.arms
        share = {MAIN_ARM: round(1 - sum(shares(arms).values()), 9), **shares(arms)}
        return {
            arm: ArmAnswer(
                model_version=self._swaps[arm].version,
                reference=source.follow and source.follow.reference,
                share=share.get(arm),
                shadow=arms[arm].shadow if arm in arms else None,
                follows=self._follows(arm) if source.follow else None,
            )
            for arm, source in self._sources.items()
        }


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
    sources: Mapping[str, Source], serving: ServingConfig, *, tolerance: float
) -> serve.Application:
    """The application for `serve.run`; `sources` are those of the main model and of all arms.

    What serves first must be readable where replicas run, and so must be what is downloaded later.
    Scores of check rows may be off by `tolerance`.
    """
    deployment = serve.deployment(
        serve.ingress()(ScorerReplica),
        name="scorer",
        ray_actor_options={"num_gpus": serving.gpus},
        max_ongoing_requests=serving.max_ongoing,
        max_queued_requests=serving.max_queued,
        backpressure_config=BackpressureConfig(retry_after_s=RETRY_AFTER_S),
        request_router_config=RequestRouterConfig(max_backoff_s=_LONGEST_LOOK_S),
        max_constructor_retry_count=1,
        **_num_replicas(serving),
    )
    if serving.shadow_log is not None:
        log = str(Path(serving.shadow_log).absolute())
        serving = serving.model_copy(update={"shadow_log": log})
    watcher: Any = None
    if any(source.follow for source in sources.values()):
        watcher = bind_watcher(sources)
    return deployment.bind(sources, serving, tolerance, watcher, token_digest(serving))
