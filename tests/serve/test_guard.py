"""The token: who gets in, what is open, what is said; and that nobody can tell it from outside."""

import base64
import hashlib
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from lorecast.config import ServingConfig
from lorecast.errors import ServingError
from lorecast.serve.guard import OPEN, Guard, token_digest, warning

pytestmark = pytest.mark.security

TOKEN = "sesame-0123456789abcdef"
DIGEST = hashlib.sha256(TOKEN.encode()).hexdigest()


@pytest.fixture(scope="module")
def client() -> TestClient:
    app = FastAPI()
    for path in ("/", "/v1/model", "/metrics", *OPEN):
        app.get(path)(lambda: "in")
    app.post("/v1/score")(lambda: "in")
    return TestClient(Guard(app, DIGEST))


def _basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"anybody:{password}".encode()).decode()


@pytest.mark.parametrize(
    "header", [f"Bearer {TOKEN}", f"bearer  {TOKEN} ", _basic(TOKEN)], ids=["as is", "odd", "basic"]
)
def test_the_token_opens(client: TestClient, header: str) -> None:
    for path in ("/", "/v1/model", "/metrics"):
        assert client.get(path, headers={"authorization": header}).status_code == 200


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN.upper()}",
        f"Bearer {DIGEST}",
        TOKEN,
        f"Token {TOKEN}",
        _basic(""),
        _basic(TOKEN + ":"),
        "Basic %%%",
        "Basic " + base64.b64encode(TOKEN.encode()).decode(),
        "Bearer ünï",
    ],
)
def test_nothing_else_does(client: TestClient, header: str | None) -> None:
    headers: Any = {} if header is None else {"authorization": header.encode()}
    answer = client.get("/v1/model", headers=headers)
    assert answer.status_code == 401
    assert answer.json() == {
        "error": "a token is needed: send the header Authorization: Bearer TOKEN"
    }
    asked = answer.headers.get_list("www-authenticate")
    assert [word.split()[0] for word in asked] == ["Bearer", "Basic"]


def test_neither_in_the_address_nor_twice(client: TestClient) -> None:
    assert client.get(f"/v1/model?token={TOKEN}&access_token={TOKEN}").status_code == 401
    twice = [("authorization", f"Bearer {TOKEN}"), ("authorization", "Bearer other")]
    assert client.get("/v1/model", headers=twice).status_code == 401


def test_a_browser_may_look_and_not_post(client: TestClient) -> None:
    """What a browser sends by itself must not let another site's form act."""
    answer = client.post("/v1/score", headers={"authorization": _basic(TOKEN)})
    assert answer.status_code == 401
    assert "Basic" not in answer.headers["www-authenticate"]
    answer = client.post("/v1/score", headers={"authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 200


def test_probes_are_open(client: TestClient) -> None:
    assert [client.get(path).status_code for path in OPEN] == [200, 200]
    for path in ("/healthz/", "/healthz/../v1/model", "/HEALTHZ", "//healthz"):
        assert client.get(path).status_code in (401, 404), path
        assert client.get(path).text != '"in"'


def test_the_comparison_takes_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of digests of one length, by the function that is made for it."""
    compared: list[tuple[str, str]] = []

    def compare(a: str, b: str) -> bool:
        compared.append((a, b))
        return a == b

    monkeypatch.setattr("lorecast.serve.guard.hmac.compare_digest", compare)
    client = TestClient(Guard(FastAPI(), DIGEST))
    client.get("/", headers={"authorization": "Bearer x"})
    assert compared == [(hashlib.sha256(b"x").hexdigest(), DIGEST)]


class TestEnvironment:
    def test_none_is_asked_for_unless_set(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("LORECAST_SERVE_TOKEN", raising=False)
        assert token_digest(ServingConfig()) is None
        monkeypatch.setenv("OTHER", TOKEN)
        assert token_digest(ServingConfig(token_env="OTHER")) == DIGEST

    @pytest.mark.parametrize(
        "token", ["", "short", "with a space 0123456789", "ünïcödé-0123456789"]
    )
    @pytest.mark.bad_input
    def test_a_poor_token_is_refused_and_not_quoted(
        self, monkeypatch: pytest.MonkeyPatch, token: str
    ) -> None:
        monkeypatch.setenv("LORECAST_SERVE_TOKEN", token)
        with pytest.raises(ServingError, match="LORECAST_SERVE_TOKEN holds no usable") as error:
            token_digest(ServingConfig())
        assert not token or token not in str(error.value)

    @pytest.mark.parametrize(
        ("host", "token", "warned"),
        [
            ("127.0.0.1", None, False),
            ("::1", None, False),
            ("localhost", None, False),
            ("127.9.9.9", None, False),
            ("0.0.0.0", None, True),
            ("::", None, True),
            ("192.0.2.7", None, True),
            ("example.com", None, True),
            ("0.0.0.0", TOKEN, False),
        ],
    )
    def test_opening_to_others_without_one_is_warned_of(
        self, monkeypatch: pytest.MonkeyPatch, host: str, token: str | None, warned: bool
    ) -> None:
        monkeypatch.delenv("LORECAST_SERVE_TOKEN", raising=False)
        if token:
            monkeypatch.setenv("LORECAST_SERVE_TOKEN", token)
        said = warning(ServingConfig(host=host))
        assert (said is not None) == warned
        assert said is None or "LORECAST_SERVE_TOKEN is not set" in said

    def test_loopback_is_the_default(self) -> None:
        assert ServingConfig().host == "127.0.0.1"
