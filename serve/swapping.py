"""A model that is replaced while it serves, mostly an ASGI application around applications.

Every model has an application of its own, so a request begins and ends on one model, and names it.
The next one is loaded, checked and warmed up in a thread beside the old one; then a reference
changes hands on the event loop. What cannot be loaded leaves the old one where it is.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from starlette.types import ASGIApp, Receive, Scope, Send

from lorecast.errors import ServingError
from lorecast.lifecycle.check_rows import largest_difference
from lorecast.lifecycle.scorer import Scorer
from lorecast.serve.following import LOG, Backoff, Target

_RETRY_S = 5.0

Model = TypeVar("Model")


class Swap(Generic[Model]):
    """What serves now, as it was loaded."""

    def __init__(
        self,
        load: Callable[[Target], Model],
        first: Target,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load = load
        self._clock = clock
        self.now = load(first)
        self.version = first.version
        self.swaps = 0
        self.failures = 0
        self.trouble: str | None = None
        """Why another version was wanted last and could not be loaded, or none."""
        self._failed: Target | None = None
        self._backoff = Backoff(_RETRY_S, clock)

    async def __call__(self: "Swap[ASGIApp]", scope: Scope, receive: Receive, send: Send) -> None:
        await self.now(scope, receive, send)

    async def follow(self, wanted: Target) -> None:
        """Serves `wanted` from now on. One that failed is tried again after a while."""
        if wanted.version == self.version:
            self.trouble = self._failed = None
            return
        if wanted != self._failed:
            self._backoff = Backoff(_RETRY_S, self._clock)
        elif not self._backoff.over:
            return
        try:
            new = await asyncio.to_thread(self._load, wanted)
        except Exception as error:  # whatever is wrong with a new bundle, the old one answers
            self._backoff.failed()
            self.failures += 1
            told, self.trouble = self.trouble, f"{wanted.version} cannot serve: {error}"
            if told != self.trouble:
                LOG.error(f"{self.version} goes on: {self.trouble}")
            self._failed = wanted
            return
        before, self.version, self.now = self.version, wanted.version, new
        self.trouble = self._failed = None
        self.swaps += 1
        LOG.info(f"{self.version} serves, after {before}")


def ready(target: Target, device: str, tolerance: float) -> Scorer:
    """The bundle's scorer, warmed up, which scores its check rows as training did.

    Raises ArtifactError, and ServingError if a score is off by more than `tolerance`. A bundle
    without check rows, which an earlier version made, passes.
    """
    scorer = Scorer.load(target.folder, device)
    difference = largest_difference(scorer)
    if difference is not None and not difference <= tolerance:
        raise ServingError(
            f"{target.folder}: scores of its check rows differ from training's by "
            f"{difference:.1e}, at most {tolerance:.0e} is allowed (promotion.parity)"
        )
    scorer.warm_up()
    return scorer
