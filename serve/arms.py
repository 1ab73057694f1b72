"""An A/B experiment on users: a layer that sends each to their arm, before the applications.

Every arm has an application of its own, as it would have alone, so an answer, and a refusal, is
that of its model. Requests that name no user are the main model's, which refuses them.
"""

import time
from collections.abc import Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram
from pydantic import BaseModel, ValidationError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lorecast.config import MAIN_ARM, ArmConfig
from lorecast.serve.assignment import Draw
from lorecast.serve.front import SECONDS, note, noted
from lorecast.serve.schema import Id

_SCORING: Final = frozenset({"/v1/score", "/v1/rank"})


class Arms:
    """The ASGI application of all arms; `apps` are those that answer, by arm."""

    def __init__(
        self,
        apps: Mapping[str, ASGIApp],
        arms: Mapping[str, ArmConfig],
        *,
        salt: str,
        max_bytes: int,
        replica: str,
        metrics: CollectorRegistry,
    ) -> None:
        self._apps = apps
        self._draw = Draw(salt, shares(arms))
        self._max_bytes = max_bytes
        self._replica = replica
        of_arm = ["replica", "arm", "model"]
        self._requests = Counter(
            "lorecast_arm_requests",
            "Requests for scores answered",
            [*of_arm, "status"],
            registry=metrics,
        )
        self._seconds = Histogram(
            "lorecast_arm_request_seconds",
            "From such a request's head to its answer's end",
            of_arm,
            buckets=SECONDS,
            registry=metrics,
        )
        self._items = Counter(
            "lorecast_arm_items_scored", "Candidates scored", of_arm, registry=metrics
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in _SCORING or scope["method"] != "POST":
            await self._apps[MAIN_ARM](scope, receive, send)
            return
        started = time.perf_counter()
        body, receive = await _read(receive, self._max_bytes)
        user_id = _user_id(body)
        arm = MAIN_ARM if user_id is None else self._draw.arm(user_id)
        note(scope, arm=arm)
        status = 500  # unless something is sent

        async def noticed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._apps[arm](scope, receive, noticed)
        finally:
            notes = noted(scope)
            labels = self._replica, arm, notes.get("model", "")
            self._requests.labels(*labels, status).inc()
            self._seconds.labels(*labels).observe(time.perf_counter() - started)
            self._items.labels(*labels).inc(notes.get("items", 0))


def shares(arms: Mapping[str, ArmConfig]) -> dict[str, float]:
    """Of the arms that answer, beside the main model."""
    return {name: arm.share for name, arm in arms.items() if arm.share is not None}


class _Asking(BaseModel):
    user_id: Id


def _user_id(body: bytes) -> str | None:
    """As the scorer knows it; none if this is no request of a user."""
    try:
        return str(_Asking.model_validate_json(body).user_id)
    except ValidationError:
        return None


async def _read(receive: Receive, most: int) -> tuple[bytes, Receive]:
    """(the body, or its beginning if it is longer than `most` bytes; a `receive` for all of it)."""
    messages: list[Message] = []
    body, more = bytearray(), True
    while more and len(body) <= most:
        message = await receive()
        messages.append(message)
        body += message.get("body", b"")
        more = message.get("more_body", False)
    again = iter(messages)

    async def receive_again() -> Message:
        return next(again, None) or await receive()

    return bytes(body), receive_again
