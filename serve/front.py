"""The layers before the application: request ids, access log and `/metrics`, then the token.

    Watch(Guard(Exposed(application)))

They hold nothing of a model: the application behind may swap it at any time. What an answer was
made with it tells them through `note`.
"""

import json
import logging
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lorecast.serve.answers import plain_answer
from lorecast.serve.guard import Guard
from lorecast.serve.request_ids import HEADER, request_id

METRICS: Final = "/metrics"
_CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"
_PATHS: Final = frozenset(
    {"/", "/v1/score", "/v1/rank", "/v1/model", "/healthz", "/readyz", "/docs", "/openapi.json"}
    | {METRICS}
)
"""Those that metrics tell apart: what clients invent must not become labels."""
_METHODS: Final = frozenset({"GET", "HEAD", "POST"})
SECONDS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_LONGEST_PATH: Final = 200
_NOTES: Final = "lorecast.notes"

LOG: Final = logging.getLogger("lorecast.access")


def front(
    app: ASGIApp,
    *,
    token_digest: str | None,
    replica: str,
    access_log: bool,
    metrics: CollectorRegistry | None = None,
) -> ASGIApp:
    """`app` behind these layers. `replica` tells this process's metrics from another's; `metrics`
    holds what else `/metrics` shows."""
    figures = Figures(replica, CollectorRegistry() if metrics is None else metrics)
    inner: ASGIApp = Exposed(app, figures)
    if token_digest is not None:
        inner = Guard(inner, token_digest)
    if access_log:
        _log_to_stdout()
    return Watch(inner, figures, access_log=access_log)


def note(scope: Scope, **facts: Any) -> None:
    """Tells the access log and the metrics of a request: `model` (its version), `knowledge`,
    `items` (how many were scored), `arm`."""
    notes: dict[str, Any] = scope.setdefault(_NOTES, {})
    notes.update(facts)


def noted(scope: Scope) -> Mapping[str, Any]:
    """What is known of a request: its `id`, and what `note` told."""
    notes: dict[str, Any] = scope.get(_NOTES, {})
    return notes


class Figures:
    """What one replica counts."""

    def __init__(self, replica: str, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._replica = replica
        kept: dict[str, Any] = {"registry": self.registry, "namespace": "lorecast"}
        of_path = ["replica", "method", "path"]
        self._requests = Counter(
            "requests", "Requests answered", [*of_path, "status", "model"], **kept
        )
        self._seconds = Histogram(
            "request_seconds",
            "From a request's head to its answer's end",
            of_path,
            buckets=SECONDS,
            **kept,
        )
        self._items = Counter("items_scored", "Candidates scored", ["replica", "model"], **kept)
        self._running = Gauge("requests_running", "Requests under way", ["replica"], **kept)
        self._model = Gauge(
            "model_info",
            "The model of the latest answer",
            ["replica", "model", "knowledge"],
            **kept,
        )
        self.running = self._running.labels(replica)

    def count(self, scope: Scope, status: int, seconds: float, notes: Mapping[str, Any]) -> None:
        """One answered request."""
        path = scope["path"] if scope["path"] in _PATHS else "other"
        method = scope["method"] if scope["method"] in _METHODS else "other"
        model = notes.get("model", "")
        self._requests.labels(self._replica, method, path, status, model).inc()
        self._seconds.labels(self._replica, method, path).observe(seconds)
        if items := notes.get("items"):
            self._items.labels(self._replica, model).inc(items)
        if model:
            self._model.clear()
            self._model.labels(self._replica, model, notes.get("knowledge") or "").set(1)


class Exposed:
    """Answers `GET /metrics` with the figures in Prometheus's text format."""

    def __init__(self, app: ASGIApp, figures: Figures) -> None:
        self._app = app
        self._figures = figures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (scope["path"], scope["method"]) == (METRICS, "GET"):
            text = generate_latest(self._figures.registry)
            await plain_answer(send, 200, text, [(b"content-type", _CONTENT_TYPE)])
        else:
            await self._app(scope, receive, send)


class Watch:
    """Gives every request an id, its own if it brings a good one, and says how it was answered."""

    def __init__(self, app: ASGIApp, figures: Figures, *, access_log: bool) -> None:
        self._app = app
        self._figures = figures
        self._access_log = access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        own = request_id(scope)
        notes: dict[str, Any] = {"id": own.decode()}
        scope[_NOTES] = notes
        status = 500  # unless something is sent

        async def numbered(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), (HEADER, own)]}
            await send(message)

        self._figures.running.inc()
        try:
            await self._app(scope, receive, numbered)
        finally:
            seconds = time.perf_counter() - started
            self._figures.running.dec()
            self._figures.count(scope, status, seconds, notes)
            if self._access_log:
                LOG.info(_line(scope, status, seconds, notes))


def _line(scope: Scope, status: int, seconds: float, notes: Mapping[str, Any]) -> str:
    """One line of JSON. Neither query, headers nor body are in it: they hold ids and tokens."""
    line = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "id": notes["id"],
        "method": scope["method"],
        "path": scope["path"][:_LONGEST_PATH],
        "status": status,
        "ms": round(1000 * seconds, 3),
    }
    line |= {name: notes[name] for name in ("items", "arm", "model") if name in notes}
    return json.dumps(line)


def _log_to_stdout() -> None:
    """Access lines, and nothing else, go to standard output, which Ray keeps in its logs."""
    if not LOG.handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("%(message)s"))
        LOG.addHandler(handler)
        LOG.setLevel(logging.INFO)
        LOG.propagate = False
