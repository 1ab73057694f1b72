"""Arms before two real scorers: who answers, and what is told of it."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from starlette.testclient import TestClient

from lorecast.config import MAIN_ARM, ArmConfig
from lorecast.lifecycle.scorer import Scorer
from lorecast.serve.app import create_app, max_bytes
from lorecast.serve.arms import Arms
from lorecast.serve.assignment import Draw
from lorecast.serve.front import LOG, front
from tests.serve.bad_requests import BAD, MAX_ITEMS
from tests.serve.figures import samples
from tests.small_bundle import write_small_bundle
from tests.tiny_dataset import write_tiny_dataset

_ARMS = {"challenger": ArmConfig(model="models:/films@challenger", share=0.5)}
_VERSIONS = {MAIN_ARM: "films/1", "challenger": "films/2"}
_ITEMS = [f"i{n}" for n in range(1, 41)]
_USERS = [f"u{n}" for n in range(1, 31)]


@pytest.fixture(scope="module")
def scorers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Scorer]:
    workspace: Path = tmp_path_factory.mktemp("workspace")
    dataset = write_tiny_dataset(workspace)
    return {
        arm: Scorer.load(write_small_bundle(workspace / arm, dataset, seed=seed))
        for seed, arm in enumerate(_VERSIONS)
    }


@pytest.fixture
def client(scorers: dict[str, Scorer]) -> TestClient:
    apps = {
        arm: create_app(scorer, model_version=_VERSIONS[arm], max_items=MAX_ITEMS, arm=arm)
        for arm, scorer in scorers.items()
    }
    metrics = CollectorRegistry()
    arms = Arms(
        apps,
        _ARMS,
        salt="spring",
        max_bytes=max_bytes(MAX_ITEMS),
        replica="r1",
        metrics=metrics,
    )
    return TestClient(
        front(arms, token_digest=None, replica="r1", access_log=True, metrics=metrics)
    )


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


def test_answers_are_those_of_the_users_arm(client: TestClient, scorers: dict[str, Scorer]) -> None:
    draw = Draw("spring", {"challenger": 0.5})
    seen = set()
    for user in _USERS:
        arm = draw.arm(user)
        seen.add(arm)
        answer = client.post("/v1/score", json={"user_id": user, "item_ids": _ITEMS}).json()
        assert (answer["arm"], answer["model_version"]) == (arm, _VERSIONS[arm])
        expected = scorers[arm].candidates(user, _ITEMS).score_N
        np.testing.assert_array_equal(np.array(answer["scores"], np.float32), expected)
        answer = client.post("/v1/rank", json={"user_id": user, "k": 3}).json()
        assert (answer["arm"], answer["model_version"]) == (arm, _VERSIONS[arm])
        items = [item["item_id"] for item in answer["items"]]
        assert items == scorers[arm].rank(user, 3).item_ids
    assert seen == {MAIN_ARM, "challenger"}


def test_an_integer_is_the_same_user_as_its_text(client: TestClient) -> None:
    arms = [
        [
            client.post("/v1/score", json={"user_id": user, "item_ids": ["i1"]}).json()["arm"]
            for user in (number, str(number), float(number))
        ]
        for number in range(20)
    ]
    assert all(len(set(each)) == 1 for each in arms)
    assert {each[0] for each in arms} == {MAIN_ARM, "challenger"}


def test_all_else_is_the_main_models(client: TestClient) -> None:
    for path in ("/v1/model", "/healthz"):
        answer = client.get(path).json()
        assert (answer["arm"], answer["model_version"]) == (MAIN_ARM, "films/1")


@pytest.mark.bad_input
@pytest.mark.parametrize(("path", "body", "status", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_refused_as_without_arms(
    client: TestClient, path: str, body: str | bytes, status: int, message: str
) -> None:
    answer = client.post(path, content=body)
    assert (answer.status_code, answer.json().keys()) == (status, {"error"})
    assert message in answer.json()["error"]


@pytest.mark.security
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"user_id": "\\ud800", "item_ids": ["i1"]}', 400),
        (b'{"user_id": "\xed\xa0\x80", "item_ids": ["i1"]}', 400),
        (b'{"user_id": "' + b"u" * 100_000 + b'", "item_ids": ["i1"]}', 200),
        (b'{"user_id": "u1", "user_id": "u2", "item_ids": ["i1"]}', 200),
        (b" " * (8 << 20), 413),
    ],
    ids=["surrogate", "its bytes", "long", "twice", "huge"],
)
def test_odd_users_are_answered_or_refused(client: TestClient, body: bytes, status: int) -> None:
    assert client.post("/v1/score", content=body).status_code == status


@pytest.mark.security
def test_a_body_in_pieces_without_a_length_is_read_up_to_its_limit(client: TestClient) -> None:
    whole = json.dumps({"user_id": "u4", "item_ids": ["i1"]}).encode()
    pieces = (whole[n : n + 5] for n in range(0, len(whole), 5))
    assert client.post("/v1/score", content=pieces).status_code == 200
    huge = (b" " * (1 << 20) for _ in range(10))
    assert client.post("/v1/score", content=huge).status_code == 413


def test_metrics_and_access_log_tell_arms_apart(client: TestClient, lines: list[str]) -> None:
    draw = Draw("spring", {"challenger": 0.5})
    arms = [draw.arm(user) for user in _USERS]
    for user in _USERS:
        client.post("/v1/score", json={"user_id": user, "item_ids": _ITEMS})
    refused = _USERS[arms.index("challenger")]
    client.post("/v1/score", json={"user_id": refused, "item_ids": []})
    client.post("/v1/score", content=b"{")
    told = [(json.loads(line)["arm"], json.loads(line)["model"]) for line in lines]
    assert told[: len(_USERS)] == [(arm, _VERSIONS[arm]) for arm in arms]
    found = samples(client)
    for arm, version in _VERSIONS.items():
        count = arms.count(arm)
        of = {"replica": "r1", "arm": arm, "model": version}
        assert found("lorecast_arm_requests_total", **of, status="200") == count
        status = "400" if arm == MAIN_ARM else "422"
        assert found("lorecast_arm_requests_total", **of, status=status) == 1
        assert found("lorecast_arm_items_scored_total", **of) == count * len(_ITEMS)
        assert found("lorecast_arm_request_seconds_count", **of) == count + 1


def test_without_arms_nothing_tells_of_them(scorers: dict[str, Scorer], lines: list[str]) -> None:
    app = create_app(scorers[MAIN_ARM], model_version="films/1", max_items=MAX_ITEMS)
    client = TestClient(front(app, token_digest=None, replica="r1", access_log=True))
    answers = [
        client.post("/v1/score", json={"user_id": "u4", "item_ids": ["i1"]}),
        client.post("/v1/rank", json={"user_id": "u4", "k": 1}),
        client.get("/v1/model"),
        client.get("/healthz"),
    ]
    assert not [answer for answer in answers if '"arm' in answer.text]
    assert not [line for line in lines if "arm" in line]
    assert "lorecast_arm" not in client.get("/metrics").text
