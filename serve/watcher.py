"""The Ray Serve deployment that follows the registry on behalf of all replicas.

Replicas ask it every second and load what it names, arm by arm. It is one process, so the registry
hears one question an alias and period however many replicas there are, and a bundle is downloaded
once.
"""

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from ray import serve

from lorecast.config import MAIN_ARM
from lorecast.serve.following import Follower, Source, Target

TICK_S = 1.0
_MAX_ONGOING_REQUESTS = 1000
_LINES, _RECENT = 100, 4
"""Lines kept, and those an arm among which trouble is not said again."""


@dataclass(frozen=True, kw_only=True)
class State:
    """What a replica tells of an arm."""

    serving: str
    trouble: str | None
    """Why the version that is wanted does not serve yet, or none."""


@dataclass(frozen=True, kw_only=True)
class News:
    """What a replica is told of an arm."""

    wanted: Target
    trouble: str | None
    """Why the registry could not be asked, or none."""


class Watcher:
    """Looks in a thread: a registry that is slow to answer holds up nobody."""

    def __init__(self, sources: Mapping[str, Source]) -> None:
        self._followers = {
            arm: Follower(source.follow, source.first)
            for arm, source in sources.items()
            if source.follow is not None
        }
        self._serving = {arm: follower.wanted.version for arm, follower in self._followers.items()}
        self._said: deque[str] = deque(maxlen=_LINES)
        self._num_said = 0
        self._task = asyncio.get_running_loop().create_task(self._watch())

    async def news(self, states: Mapping[str, State]) -> dict[str, News]:
        """By arm, of those that are followed, for a replica in these states."""
        for arm, state in states.items():
            if state.trouble:
                self._complain(arm, f"{state.serving} goes on: {state.trouble}")
        return {
            arm: News(wanted=follower.wanted, trouble=follower.trouble)
            for arm, follower in self._followers.items()
        }

    async def swapped(self, arm: str, serving: str) -> None:
        """From a replica whose arm serves this version from now on."""
        if serving != self._serving[arm]:
            self._say(_line(arm, f"{serving} serves now, after {self._serving[arm]}"))
            self._serving[arm] = serving

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
            for arm, follower in self._followers.items():  # in turns: two may want one download
                await asyncio.to_thread(follower.look)
                if follower.trouble:
                    self._complain(arm, f"{self._serving[arm]} goes on: {follower.trouble}")
            await asyncio.sleep(TICK_S)

    def _complain(self, arm: str, text: str) -> None:
        """Several replicas, each in its own second, have the same trouble: it is said once."""
        line = _line(arm, text)
        if line not in list(self._said)[-_RECENT * len(self._followers) :]:
            self._say(line)

    def _say(self, line: str) -> None:
        self._said.append(line)
        self._num_said += 1


def _line(arm: str, text: str) -> str:
    return text if arm == MAIN_ARM else f"{arm}: {text}"


def bind_watcher(sources: Mapping[str, Source]) -> serve.Application:
    """The deployment, to be handed to those that ask it."""
    deployment = serve.deployment(
        Watcher,
        name="watcher",
        num_replicas=1,
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=_MAX_ONGOING_REQUESTS,
    )
    return deployment.bind(sources)
