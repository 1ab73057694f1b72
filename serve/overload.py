"""Beyond capacity: who is refused, and how that is said.

A replica takes `serving.max_ongoing` requests, others wait in Ray Serve's proxy, and what comes
when `serving.max_queued` wait already is refused there, before it costs a scorer anything. The
proxy says so in plain text; the middleware here says it as every other refusal is said.
"""

from typing import Final

from pydantic_core import to_json
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lorecast.serve.request_ids import OneRequestId

RETRY_AFTER_S: Final = 1
"""Long enough for a queue to empty, short for a client."""
IMPORT_PATH: Final = "lorecast.serve.overload:middlewares"
VARIABLE: Final = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
"""Where Ray Serve's proxies look for middleware; to be set where Ray starts."""
_JSON: Final = b"application/json"
_BODY: Final = to_json({"error": "more requests than can be answered: try again in a second"})


class SayOverload:
    """ASGI middleware: 503s that Ray Serve wrote become ours, other answers pass."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        replaced = False

        async def send_ours(message: Message) -> None:
            nonlocal replaced
            if message["type"] == "http.response.start" and _of_ray(message):
                replaced = True
                await send(_start(message))
                await send({"type": "http.response.body", "body": _BODY})
            elif not replaced:
                await send(message)

        await self._app(scope, receive, send_ours)


def middlewares() -> list[Middleware]:
    """For Ray Serve, under `IMPORT_PATH`."""
    return [Middleware(SayOverload), Middleware(OneRequestId)]


def _of_ray(start: Message) -> bool:
    headers = dict(start["headers"])
    return start["status"] == 503 and headers.get(b"content-type") != _JSON


def _start(of_ray: Message) -> Message:
    replaced = (b"content-type", b"content-length", b"retry-after")
    kept = [(name, value) for name, value in of_ray["headers"] if name.lower() not in replaced]
    ours = [
        (b"content-type", _JSON),
        (b"content-length", str(len(_BODY)).encode()),
        (b"retry-after", str(RETRY_AFTER_S).encode()),
    ]
    return {**of_ray, "headers": [*kept, *ours]}
