"""The HTTP application over a scorer; knows nothing of Ray.

Bodies are read up to a limit and parsed from bytes, so nothing a client sends costs more than its
share; every refusal is 4xx with one sentence in `error`. Scoring runs on the event loop: a thread
pool took longer for one client and gave no more to eight (100 candidates, one torch thread).
Requests that wait at the same time are scored together, see `batching`.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ValidationError
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

import lorecast
from lorecast.lifecycle.scorer import History, Query, Scored, Scorer
from lorecast.serve.batching import Batches
from lorecast.serve.front import note
from lorecast.serve.page import add_page
from lorecast.serve.schema import (
    ArmAnswer,
    ErrorAnswer,
    FollowAnswer,
    HealthAnswer,
    HistoryEntry,
    ModelAnswer,
    RankAnswer,
    RankRequest,
    ScoreAnswer,
    ScoreRequest,
)
from lorecast.serve.shadows import Shadows

_BODY_BYTES_PER_ITEM = 128
_BODY_BYTES_FLOOR = 1 << 20
_COMPONENT = "#/components/schemas/{model}"

R = TypeVar("R", ScoreRequest, RankRequest)


def create_app(
    scorer: Scorer,
    *,
    model_version: str,
    max_items: int,
    follows: Callable[[], FollowAnswer] | None = None,
    arm: str | None = None,
    arms: Callable[[], dict[str, ArmAnswer]] | None = None,
    shadows: Shadows | None = None,
) -> FastAPI:
    """The application, answering in the name of `model_version`.

    A request may hold at most `max_items` candidates and as many history entries. `follows` tells
    how the registry is followed, and `arms` what all arms do, as of now; `arm` is this one's name.
    Answered requests are shown to `shadows`.
    """
    app = FastAPI(
        title="lorecast",
        version=lorecast.__version__,
        summary="Click probabilities by models that know what language models know.",
        exception_handlers={HTTPException: _refuse},
        responses={"4XX": {"model": ErrorAnswer, "description": "Refused, with the reason"}},
    )
    bundle, fingerprints = scorer.bundle, scorer.bundle.fingerprints
    origin = {"model_version": model_version, "knowledge": fingerprints.get("knowledge")}
    if arm is not None:
        origin["arm"] = arm
    card = ModelAnswer(
        **origin,
        kind=bundle.kind,
        dataset=fingerprints["dataset"],
        strategy=bundle.strategy,
        num_users=bundle.num_users,
        num_items=bundle.num_items,
        history_length=bundle.history_length,
        rating_range=scorer.rating_range and list(scorer.rating_range),
        context=list(scorer.context_names),
        max_items=max_items,
        metrics={split: dict(values) for split, values in bundle.metrics.items()},
    )
    limits = _Limits(max_items, scorer.rating_range, scorer.context_names)
    batches = Batches(scorer)

    @app.post("/v1/score", openapi_extra=_takes(ScoreRequest), responses=_gives(ScoreAnswer))
    async def score(request: Request) -> Response:
        """Probability of each candidate that the user clicks or likes it, in order."""
        query = await limits.read(request, ScoreRequest)
        history = limits.history(query.history)
        note(request.scope, items=len(query.item_ids))
        asked = Query(query.user_id, query.item_ids, history, query.context)
        scored = await batches.answer(asked)
        answer = _json({**origin, "scores": scored.score_N.tolist(), **_unknown(scored)})
        if shadows is not None:
            answer.background = shadows.after(request.scope, asked, scored)
        return answer

    @app.post("/v1/rank", openapi_extra=_takes(RankRequest), responses=_gives(RankAnswer))
    async def rank(request: Request) -> Response:
        """The k best candidates."""
        query = await limits.read(request, RankRequest)
        history = limits.history(query.history)
        candidates = scorer.all_items if query.item_ids is None else query.item_ids
        note(request.scope, items=len(candidates))
        asked = Query(query.user_id, candidates, history, query.context)
        ranked = (await batches.answer(asked)).best(query.k)
        items = [
            {"item_id": item, "score": score}
            for item, score in zip(ranked.item_ids, ranked.score_N.tolist(), strict=True)
        ]
        answer = _json({**origin, "items": items, **_unknown(ranked)})
        if shadows is not None:
            answer.background = shadows.after(request.scope, asked, ranked)
        return answer

    @app.get("/v1/model")
    async def model() -> ModelAnswer:
        """What is being served."""
        now = {"follows": follows and follows(), "arms": arms and arms()}
        return card.model_copy(update=now)

    @app.get("/readyz")
    @app.get("/healthz")
    async def healthz() -> HealthAnswer:
        """Answers once the model is loaded; asks for no token."""
        return HealthAnswer(**origin, status="ok")

    app.add_middleware(_Signed, model=model_version, knowledge=origin["knowledge"])
    add_page(app, lambda: (scorer, model_version), max_items=max_items)
    _describe_requests(app, max_items, scorer.rating_range, scorer.context_names)
    return app


def max_bytes(max_items: int) -> int:
    """Of a body that may hold so many items."""
    return _BODY_BYTES_FLOOR + _BODY_BYTES_PER_ITEM * max_items


class _Signed:
    """Notes for every request which model was there to answer it."""

    def __init__(self, app: ASGIApp, /, **facts: Any) -> None:
        self._app = app
        self._facts = facts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        note(scope, **self._facts)
        await self._app(scope, receive, send)


class _Limits:
    """What a request may hold."""

    def __init__(
        self,
        max_items: int,
        rating_range: tuple[float, float] | None,
        context_names: tuple[str, ...],
    ) -> None:
        self._max_items = max_items
        self._max_bytes = max_bytes(max_items)
        self._rating_range = rating_range
        self._context_names = context_names

    async def read(self, request: Request, kind: type[R]) -> R:
        """The parsed body. Raises HTTPException 400 (not JSON), 413 (too large) or 422."""
        declared = request.headers.get("content-length", "0")
        if declared.isdecimal() and int(declared) > self._max_bytes:
            raise self._too_large()
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > self._max_bytes:
                raise self._too_large()
        try:
            query = kind.model_validate_json(bytes(body))
        except ValidationError as error:
            raise _invalid(error) from None
        self._check_count("item_ids", query.item_ids)
        self._check_count("history", query.history)
        for name in query.context or ():
            if name not in self._context_names:
                known = ", ".join(self._context_names) or "none"
                raise HTTPException(422, f"context: no {name[:50]!r}; the model's are: {known}")
        if isinstance(query, RankRequest) and query.k > self._max_items:
            raise HTTPException(422, f"k: {query.k} is more than the {self._max_items} allowed")
        return query

    def history(self, entries: list[HistoryEntry] | None) -> History | None:
        """The entries as the scorer takes them. Raises HTTPException 422 for a rating outside."""
        if entries is None:
            return None
        for place, entry in enumerate(entries):
            if wrong := self._wrong_rating(entry.rating):
                raise HTTPException(422, f"history.{place}.rating: {wrong}")
        return [(entry.item_id, entry.rating) for entry in entries]

    def _wrong_rating(self, rating: float | None) -> str | None:
        if self._rating_range is None:
            return None if rating is None else "the model's histories have none; leave it out"
        low, high = self._rating_range
        if rating is None:
            return "is required"
        return None if low <= rating <= high else f"{rating} is not within {low} to {high}"

    def _check_count(self, name: str, values: list[Any] | None) -> None:
        if values is not None and len(values) > self._max_items:
            raise HTTPException(
                422, f"{name}: {len(values)} entries are more than the {self._max_items} allowed"
            )

    def _too_large(self) -> HTTPException:
        return HTTPException(413, f"the body is larger than the {self._max_bytes} bytes allowed")


def _unknown(scored: Scored) -> dict[str, Any]:
    return {"unknown": vars(scored.unknown)}


def _json(content: Mapping[str, Any], status: int = 200) -> Response:
    return Response(to_json(content), status, media_type="application/json")


_SENTENCES = {
    404: "no such path; /docs lists what there is",
    405: "this path does not take this method; /docs lists what there is",
}


async def _refuse(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    response = _json({"error": _SENTENCES.get(error.status_code, error.detail)}, error.status_code)
    response.headers.update(error.headers or {})
    return response


def _invalid(error: ValidationError) -> HTTPException:
    first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return HTTPException(400, f"the body is not JSON: {first['ctx']['error']}")
    if not first["loc"]:
        return HTTPException(422, "the body must be a JSON object")
    path = [part for part in first["loc"] if part not in ("str", "int")]
    message = {
        "extra_forbidden": "no such key",
        "missing": "is required",
        "too_short": "must not be empty",
        "string_type": "must be a string or an integer",
        "int_type": "must be an integer",
    }.get(first["type"], first["msg"])
    return HTTPException(422, f"{'.'.join(map(str, path))}: {message}")


def _gives(answer: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    return {200: {"model": answer, "description": "Scored"}}


def _takes(request: type[BaseModel]) -> dict[str, Any]:
    schema = {"$ref": _COMPONENT.format(model=request.__name__)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _describe_requests(
    app: FastAPI,
    max_items: int,
    rating_range: tuple[float, float] | None,
    context_names: tuple[str, ...],
) -> None:
    """Adds the request models, which no route declares, and the limits to the OpenAPI document."""
    schemas = app.openapi()["components"]["schemas"]
    for model in (ScoreRequest, RankRequest):
        schema = model.model_json_schema(ref_template=_COMPONENT)
        schemas |= schema.pop("$defs", {})
        schemas[model.__name__] = schema
        for name in ("item_ids", "history"):
            field = schema["properties"][name]
            next(t for t in field.get("anyOf", [field]) if t["type"] == "array")["maxItems"] = (
                max_items
            )
        context = schema["properties"]["context"]["anyOf"][0]
        context["properties"] = dict.fromkeys(context_names, context["additionalProperties"])
        context["additionalProperties"] = False
    schemas["RankRequest"]["properties"]["k"]["maximum"] = max_items
    rating = schemas["HistoryEntry"]["properties"]["rating"]
    del rating["anyOf"], rating["default"]
    if rating_range is None:
        rating["type"] = "null"
    else:
        low, high = rating_range
        rating |= {"type": "number", "minimum": low, "maximum": high}
        schemas["HistoryEntry"]["required"].append("rating")
