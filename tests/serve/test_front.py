"""Request ids, access lines and metrics, before the real application."""

import hashlib
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from lorecast.lifecycle.scorer import Scorer
from lorecast.serve.answers import plain_answer
from lorecast.serve.app import create_app
from lorecast.serve.front import LOG, front
from lorecast.serve.request_ids import OneRequestId
from tests.small_bundle import write_small_bundle
from tests.tiny_dataset import write_tiny_dataset

TOKEN = "sesame-0123456789abcdef"
DIGEST = hashlib.sha256(TOKEN.encode()).hexdigest()
BEARER = {"authorization": f"Bearer {TOKEN}"}
SCORE = {"user_id": "u4", "item_ids": ["i1", "i2", "i3"]}


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    workspace: Path = tmp_path_factory.mktemp("workspace")
    return Scorer.load(write_small_bundle(workspace, write_tiny_dataset(workspace)))


@pytest.fixture
def client(scorer: Scorer) -> TestClient:
    app = create_app(scorer, model_version="films/3", max_items=100)
    return TestClient(front(app, token_digest=DIGEST, replica="r1", access_log=True))


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What the access log says meanwhile."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)
    yield said
    LOG.removeHandler(handler)


def samples(client: TestClient) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    answer = client.get("/metrics", headers=BEARER)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


class TestRequestIds:
    def test_a_good_one_comes_back(self, client: TestClient, lines: list[str]) -> None:
        answer = client.get("/healthz", headers={"x-request-id": "shop-7.a:1_x"})
        assert answer.headers["x-request-id"] == "shop-7.a:1_x"
        assert json.loads(lines[0])["id"] == "shop-7.a:1_x"

    @pytest.mark.security
    @pytest.mark.parametrize(
        "sent", ["", "x" * 65, "a b", 'a"b', "<script>", "ä", "-a", "a\x00b", '{"id":1}']
    )
    def test_another_is_replaced(self, client: TestClient, lines: list[str], sent: str) -> None:
        answer = client.get("/healthz", headers={b"x-request-id": sent.encode()})
        own = answer.headers["x-request-id"]
        assert re.fullmatch("[0-9a-f]{32}", own)
        assert json.loads(lines[0])["id"] == own

    def test_every_answer_has_one_of_its_own(self, client: TestClient) -> None:
        answers = [
            client.get("/"),
            client.get("/healthz"),
            client.post("/v1/score", json=SCORE, headers=BEARER),
            client.post("/v1/score", content=b"{", headers=BEARER),
            client.get("/nowhere", headers=BEARER),
        ]
        assert [answer.status_code for answer in answers] == [401, 200, 200, 400, 404]
        assert len({answer.headers["x-request-id"] for answer in answers}) == len(answers)


class TestAccessLog:
    def test_one_line_of_json_a_request(self, client: TestClient, lines: list[str]) -> None:
        client.post("/v1/score", json=SCORE, headers=BEARER)
        client.get("/nowhere", headers=BEARER)
        first, second = map(json.loads, lines)
        assert first["ms"] > 0
        assert {name: first[name] for name in first if name not in ("time", "id", "ms")} == {
            "method": "POST",
            "path": "/v1/score",
            "status": 200,
            "items": 3,
            "model": "films/3",
        }
        assert second["status"] == 404
        assert "items" not in second

    @pytest.mark.security
    def test_tells_no_token_and_no_id_of_a_user(self, client: TestClient, lines: list[str]) -> None:
        client.get("/", params={"user": "secret-user", "token": TOKEN}, headers=BEARER)
        client.post("/v1/score", json=SCORE | {"user_id": "secret-user"}, headers=BEARER)
        client.get("/", headers={"authorization": f"Bearer {TOKEN}x", "cookie": TOKEN})
        assert len(lines) == 3
        assert not [line for line in lines if TOKEN in line or "secret-user" in line]

    @pytest.mark.security
    def test_a_client_writes_no_lines_of_its_own(
        self, client: TestClient, lines: list[str]
    ) -> None:
        client.get("/a%0A%7B%22status%22%3A200%7D" + "x" * 1000, headers=BEARER)
        (line,) = lines
        assert "\n" not in line
        assert len(line) < 600
        assert json.loads(line)["path"].startswith('/a\n{"status":200}')

    def test_can_be_turned_off(self, scorer: Scorer, lines: list[str]) -> None:
        app = create_app(scorer, model_version="films/3", max_items=100)
        client = TestClient(front(app, token_digest=None, replica="r1", access_log=False))
        assert client.get("/healthz").status_code == 200
        assert lines == []


class TestMetrics:
    def test_requests_items_seconds_and_the_model(self, client: TestClient) -> None:
        for _ in range(3):
            client.post("/v1/score", json=SCORE, headers=BEARER)
        client.post("/v1/rank", json={"user_id": "u4", "k": 2}, headers=BEARER)
        client.post("/v1/score", json=SCORE)
        found = samples(client)
        of = [("method", "POST"), ("path", "/v1/score"), ("replica", "r1")]

        def value(name: str, *labels: tuple[str, str]) -> float:
            return found[name, tuple(sorted(labels))]

        counted = "lorecast_requests_total"
        assert value(counted, *of, ("status", "200"), ("model", "films/3")) == 3
        assert value(counted, *of, ("status", "401"), ("model", "")) == 1
        assert value("lorecast_request_seconds_count", *of) == 4
        assert value("lorecast_request_seconds_bucket", *of, ("le", "+Inf")) == 4
        scored = [("replica", "r1"), ("model", "films/3")]
        assert value("lorecast_items_scored_total", *scored) == 9 + 40
        assert value("lorecast_requests_running", ("replica", "r1")) == 1  # this very one
        info = [labels for name, labels in found if name == "lorecast_model_info"]
        assert dict(info[0])["model"] == "films/3"

    def test_a_swapped_model_is_told_apart(self, scorer: Scorer) -> None:
        apps = [
            create_app(scorer, model_version=version, max_items=100)
            for version in ("films/3", "films/4")
        ]

        async def swapping(scope: Scope, receive: Receive, send: Send) -> None:
            await apps[0](scope, receive, send)

        client = TestClient(front(swapping, token_digest=None, replica="r1", access_log=False))
        client.post("/v1/score", json=SCORE)
        apps.pop(0)
        client.post("/v1/score", json=SCORE)
        found = samples(client)
        models = {
            dict(labels)["model"]
            for name, labels in found
            if name == "lorecast_requests_total" and ("path", "/v1/score") in labels
        }
        assert models == {"films/3", "films/4"}
        info = [dict(labels) for name, labels in found if name == "lorecast_model_info"]
        assert [labels["model"] for labels in info] == ["films/4"]

    @pytest.mark.security
    def test_need_the_token(self, client: TestClient) -> None:
        assert client.get("/metrics").status_code == 401

    @pytest.mark.security
    def test_what_clients_invent_becomes_no_label(self, client: TestClient) -> None:
        client.get("/healthz")
        before = len(samples(client))
        for n in range(50):
            client.get(f"/nowhere/{n}?x={n}", headers=BEARER)
            client.request(f"VERB{n}", "/healthz")
        found = samples(client)
        assert len(found) < before + 80
        assert {dict(labels).get("path") for _, labels in found} <= {
            None,
            "other",
            "/healthz",
            "/metrics",
        }

    def test_an_application_that_raises_counts_as_500(self, lines: list[str]) -> None:
        async def broken(scope: Scope, receive: Receive, send: Send) -> None:
            raise RuntimeError("broken")

        client = TestClient(
            front(broken, token_digest=None, replica="r1", access_log=True),
            raise_server_exceptions=False,
        )
        assert client.get("/v1/model").status_code == 500
        assert json.loads(lines[0])["status"] == 500


def test_ready_when_healthy(client: TestClient) -> None:
    answers = [client.get(path) for path in ("/healthz", "/readyz")]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].json() == answers[1].json()


class TestBeforeTheProxy:
    """Ray's proxy repeats whatever id it is sent; before it one good id is let through."""

    @pytest.fixture
    def client(self) -> TestClient:
        async def proxy(scope: Scope, receive: Receive, send: Send) -> None:
            sent = [value for name, value in scope["headers"] if name == b"x-request-id"]
            headers = [(b"x-request-id", sent[0]), (b"X-Request-ID", b"another")]
            await plain_answer(send, 200, {"seen": [value.decode() for value in sent]}, headers)

        return TestClient(OneRequestId(proxy))

    def test_a_good_id_is_kept(self, client: TestClient) -> None:
        answer = client.get("/", headers={"x-request-id": "shop-7"})
        assert answer.json() == {"seen": ["shop-7"]}
        assert answer.headers.get_list("x-request-id") == ["shop-7"]

    @pytest.mark.security
    @pytest.mark.parametrize("sent", ["a" * 65, "a b", ""])
    def test_a_bad_one_never_arrives(self, client: TestClient, sent: str) -> None:
        answer = client.get("/", headers={"x-request-id": sent})
        (own,) = answer.headers.get_list("x-request-id")
        assert answer.json() == {"seen": [own]}
        assert own != sent
