"""Which bundle should serve: what an alias of the registry names now. Knows nothing of Ray.

A fixed number and a folder are followed by nobody: there is no `Follow` for them.
"""

import logging
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from lorecast.config import MAIN_ARM, ExperimentConfig
from lorecast.errors import ArtifactError, LorecastError
from lorecast.lifecycle.card import kind_of
from lorecast.lifecycle.registry import Registry, fetch, parse_reference

LOG = logging.getLogger("ray.serve")
_LONGEST_WAIT_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Target:
    """A bundle in a folder, and the name that its answers carry."""

    folder: Path
    version: str

    @classmethod
    def named(cls, registry: Registry, reference: str, workspace: Path) -> Self:
        """What `reference` names now, downloaded unless it is there. Raises RegistryError."""
        folder, version = fetch(registry, reference, workspace)
        return cls(folder=folder, version=version)


@dataclass(frozen=True, kw_only=True)
class Follow:
    """An alias to follow."""

    registry: Registry
    reference: str
    workspace: Path
    """Bundles are downloaded below it, so replicas must see it."""
    period_s: float

    @classmethod
    def of(
        cls, config: ExperimentConfig, registry: Registry, reference: str, workspace: Path
    ) -> "Follow | None":
        """None if `reference` names a number, or the experiment says not to follow."""
        if isinstance(parse_reference(reference)[1], int) or not config.serving.follow_s:
            return None
        return cls(
            registry=registry,
            reference=reference,
            workspace=workspace,
            period_s=config.serving.follow_s,
        )


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a model comes from: what serves first and, unless that stays, the alias to follow."""

    first: Target
    follow: Follow | None = None

    @classmethod
    def named(
        cls, config: ExperimentConfig, registry: Registry, reference: str, workspace: Path
    ) -> Self:
        """The source that `reference` names. Raises RegistryError."""
        return cls(
            first=Target.named(registry, reference, workspace),
            follow=Follow.of(config, registry, reference, workspace),
        )


def arm_sources(config: ExperimentConfig, registry: Registry, workspace: Path) -> dict[str, Source]:
    """Those of `serving.arms`, by name. Raises RegistryError naming the arm."""
    sources = {}
    for name, arm in config.serving.arms.items():
        with of_arm(name):
            sources[name] = Source.named(config, registry, arm.model, workspace)
    return sources


@contextmanager
def of_arm(name: str) -> Iterator[None]:
    """Errors of an arm say so; those of the main model stay as they are."""
    try:
        yield
    except LorecastError as error:
        if name == MAIN_ARM:
            raise
        raise type(error)(f"serving.arms.{name}: {error}") from error


class Backoff:
    """Waits that double with every failure in a row, up to a minute."""

    def __init__(self, period_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._period_s = period_s
        self._clock = clock
        self._wait_s = period_s
        self._next_s = clock()

    @property
    def over(self) -> bool:
        """Whether it is time to try."""
        return self._clock() >= self._next_s

    def failed(self) -> None:
        wait_s = min(self._wait_s * 2, max(_LONGEST_WAIT_S, self._period_s))
        self._wait_s = wait_s
        self._next_s = self._clock() + wait_s

    def succeeded(self) -> None:
        self._wait_s = self._period_s
        self._next_s = self._clock() + self._period_s


class Follower:
    """Asks the registry now and then. What it cannot get leaves `wanted` as it is."""

    def __init__(
        self, follow: Follow, first: Target, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._follow = follow
        self._backoff = Backoff(follow.period_s, clock)
        self.wanted = first
        self.trouble: str | None = None
        """Why the last look found nothing, or none."""
        self.failures = 0

    def look(self) -> None:
        """Takes up what the alias names, if it is time; a failure is kept, logged once, counted."""
        if not self._backoff.over:
            return
        try:
            follow = self._follow
            wanted = Target.named(follow.registry, follow.reference, follow.workspace)
            _check_complete(wanted.folder)
        except (LorecastError, OSError) as error:
            self._backoff.failed()
            self.failures += 1
            told, self.trouble = self.trouble, str(error)
            if told != self.trouble:
                LOG.error(f"{self.wanted.version} goes on: {error}")
            return
        self._backoff.succeeded()
        if self.trouble:
            LOG.warning(f"{self._follow.reference} is found again")
        self.trouble = None
        self.wanted = wanted


def _check_complete(folder: Path) -> None:
    """Raises ArtifactError for a damaged copy, which is removed: the next look fetches it anew."""
    try:
        kind_of(folder)
    except ArtifactError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
