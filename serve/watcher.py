"""The Ray Serve deployment that follows the registry on behalf of all replicas.

Replicas ask it every second and load what it names. It is one process, so the registry hears one
question a period however many replicas there are, and a bundle is downloaded once.
"""

import asyncio
from collections import deque
from dataclasses import dataclass

from ray import serve

from lorecast.serve.following import Follow, Follower, Target

TICK_S = 1.0
_MAX_ONGOING_REQUESTS = 1000
_LINES, _RECENT = 100, 4


@dataclass(frozen=True, kw_only=True)
class News:
    """What a replica is told."""

    wanted: Target
    trouble: str | None
    """Why the registry could not be asked, or none."""


class Watcher:
    """Looks in a thread: a registry that is slow to answer holds up nobody."""

    def __init__(self, follow: Follow, first: Target) -> None:
        self._follower = Follower(follow, first)
        self._serving = first.version
        self._said: deque[str] = deque(maxlen=_LINES)
        self._num_said = 0
        self._task = asyncio.get_running_loop().create_task(self._watch())

    async def news(self, serving: str, trouble: str | None) -> News:
        """For a replica that serves the version `serving` and has this trouble with the next."""
        if trouble:
            self._complain(f"{serving} goes on: {trouble}")
        return News(wanted=self._follower.wanted, trouble=self._follower.trouble)

    async def swapped(self, serving: str) -> None:
        """From a replica that serves this version from now on."""
        if serving != self._serving:
            self._say(f"{serving} serves now, after {self._serving}")
            self._serving = serving

    async def said(self, after: int) -> tuple[int, list[str]]:
        """(lines said so far, those after line `after`): what has happened, for a person."""
        new = min(self._num_said - after, len(self._said))
        return self._num_said, list(self._said)[len(self._said) - new :]

    def check_health(self) -> None:
        """Raises once nobody looks any more; Ray Serve then starts another watcher."""
        if self._task.done():
            raise RuntimeError("the registry is not watched any more")

    async def _watch(self) -> None:
        while True:
            await asyncio.to_thread(self._follower.look)
            if self._follower.trouble:
                self._complain(f"{self._serving} goes on: {self._follower.trouble}")
            await asyncio.sleep(TICK_S)

    def _complain(self, line: str) -> None:
        """Several replicas, each in its own second, have the same trouble: it is said once."""
        if line not in list(self._said)[-_RECENT:]:
            self._say(line)

    def _say(self, line: str) -> None:
        self._said.append(line)
        self._num_said += 1


def bind_watcher(follow: Follow, first: Target) -> serve.Application:
    """The deployment, to be handed to those that ask it."""
    deployment = serve.deployment(
        Watcher,
        name="watcher",
        num_replicas=1,
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=_MAX_ONGOING_REQUESTS,
    )
    return deployment.bind(follow, first)
