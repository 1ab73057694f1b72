"""Ids that follow a request through logs: the client's, if it is good, else a new one.

Ray Serve's proxy takes any id it is sent, and adds it to the answer that carries one already; the
middleware here stands before it.
"""

import re
from typing import Final
from uuid import uuid4

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lorecast.serve.answers import Headers

HEADER: Final = b"x-request-id"
_GOOD: Final = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")


def request_id(scope: Scope) -> bytes:
    """The id that the request brings, or a new one: at most 64 letters, digits and . _ : -"""
    sent = [value for name, value in scope["headers"] if name == HEADER]
    return sent[0] if len(sent) == 1 and _GOOD.fullmatch(sent[0]) else uuid4().hex.encode()


class OneRequestId:
    """ASGI middleware: what is behind it sees a good id, and the answer carries it once."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        own = (HEADER, request_id(scope))

        async def send_one(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*_others(message.get("headers", ())), own]}
            await send(message)

        await self._app({**scope, "headers": [*_others(scope["headers"]), own]}, receive, send_one)


def _others(headers: Headers) -> list[tuple[bytes, bytes]]:
    return [header for header in headers if header[0].lower() != HEADER]
