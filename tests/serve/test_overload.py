"""How refusals beyond capacity are said."""

from collections.abc import Callable

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

from lorecast.serve.overload import IMPORT_PATH, SayOverload, middlewares
from lorecast.serve.request_ids import OneRequestId


def _app(respond: Callable[[Request], Response]) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(Request(scope))(scope, receive, send)

    return SayOverload(app)


def test_the_proxys_refusals_are_said_as_all_others() -> None:
    def refuse(_: Request) -> Response:
        headers = {"retry-after": "7", "x-request-id": "a1"}
        return PlainTextResponse("Request dropped, backpressure", 503, headers)

    answer = TestClient(_app(refuse)).post("/v1/score", content=b"{}")
    assert answer.status_code == 503
    assert answer.json().keys() == {"error"}
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers.get_list("retry-after") == ["1"]
    assert answer.headers["x-request-id"] == "a1"


@pytest.mark.parametrize(
    "response",
    [
        JSONResponse({"error": "not ready"}, 503),
        PlainTextResponse("fine"),
        JSONResponse({"scores": [0.5]}),
        PlainTextResponse("no such path", 404),
    ],
    ids=["ours", "text", "scores", "missing"],
)
def test_other_answers_pass_unchanged(response: Response) -> None:
    answer = TestClient(_app(lambda _: response)).get("/")
    assert (answer.status_code, answer.content) == (response.status_code, response.body)
    assert "retry-after" not in answer.headers


def test_ray_serve_finds_the_middleware() -> None:
    from ray._common.utils import import_attr

    assert [each.cls for each in import_attr(IMPORT_PATH)()] == [SayOverload, OneRequestId]
    assert import_attr(IMPORT_PATH) is middlewares
