"""The HTTP application in process: answers, provenance, and every kind of bad input."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from lorecast.data.dataset import Dataset
from lorecast.lifecycle.scorer import Scorer
from lorecast.serve.app import create_app
from lorecast.serve.schema import HealthAnswer, ModelAnswer, RankAnswer, ScoreAnswer
from tests.serve.bad_requests import BAD, MAX_ITEMS
from tests.small_bundle import write_small_bundle


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    from tests.tiny_dataset import write_tiny_dataset

    workspace: Path = tmp_path_factory.mktemp("workspace")
    dataset: Dataset = write_tiny_dataset(workspace)
    return Scorer.load(write_small_bundle(workspace, dataset))


@pytest.fixture(scope="module")
def client(scorer: Scorer) -> Iterator[TestClient]:
    app = create_app(scorer, model_version="films/3", max_items=MAX_ITEMS)
    with TestClient(app, raise_server_exceptions=True) as client:
        yield client


def test_scores_are_the_scorers(client: TestClient, scorer: Scorer) -> None:
    items = [f"i{n}" for n in range(1, 41)]
    answer = client.post("/v1/score", json={"user_id": "u4", "item_ids": items})
    assert answer.status_code == 200
    ScoreAnswer.model_validate(answer.json())
    expected = scorer.candidates("u4", items).score_N
    np.testing.assert_array_equal(np.array(answer.json()["scores"], dtype=np.float32), expected)


def test_history_overrides_the_default(client: TestClient, scorer: Scorer) -> None:
    history = [{"item_id": "i3", "rating": 5}, {"item_id": "i8", "rating": 1.5}]
    body = {"user_id": "u4", "item_ids": ["i1"], "history": history}
    (score,) = client.post("/v1/score", json=body).json()["scores"]
    assert score == scorer.candidates("u4", ["i1"], [("i3", 5), ("i8", 1.5)]).score_N[0]


def test_histories_of_items_alone(tmp_path: Path) -> None:
    from tests.tiny_dataset import write_tiny_dataset

    dataset = replace(write_tiny_dataset(tmp_path), rates_histories=False)
    scorer = Scorer.load(write_small_bundle(tmp_path, dataset))
    client = TestClient(create_app(scorer, model_version="films/4", max_items=MAX_ITEMS))
    assert client.get("/v1/model").json()["rating_range"] is None
    body = {"user_id": "u4", "item_ids": ["i1"], "history": [{"item_id": "i3"}]}
    (score,) = client.post("/v1/score", json=body).json()["scores"]
    assert score == scorer.candidates("u4", ["i1"], [("i3", None)]).score_N[0]
    body["history"] = [{"item_id": "i3", "rating": 5}]
    answer = client.post("/v1/score", json=body)
    assert answer.status_code == 422
    assert answer.json()["error"] == (
        "history.0.rating: the model's histories have none; leave it out"
    )
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    assert schemas["HistoryEntry"]["properties"]["rating"]["type"] == "null"


def test_contexts(tmp_path: Path) -> None:
    from tests.tiny_dataset import write_tiny_dataset

    scorer = Scorer.load(write_small_bundle(tmp_path, write_tiny_dataset(tmp_path, rich=True)))
    client = TestClient(create_app(scorer, model_version="films/5", max_items=MAX_ITEMS))
    assert client.get("/v1/model").json()["context"] == ["device", "hour"]
    context = {"device": "tv", "hour": 23}
    body = {"user_id": "u4", "item_ids": ["i1"], "context": context}
    answer = client.post("/v1/score", json=body).json()
    assert answer["scores"][0] == scorer.candidates("u4", ["i1"], None, context).score_N[0]
    assert answer["unknown"]["context"] == ["hour"]
    ranked = client.post("/v1/rank", json={"user_id": "u4", "k": 2, "context": context}).json()
    assert [i["item_id"] for i in ranked["items"]] == scorer.rank("u4", 2, context=context).item_ids
    answer = client.post("/v1/score", json=body | {"context": {"devise": "tv"}})
    assert answer.status_code == 422
    assert answer.json()["error"] == "context: no 'devise'; the model's are: device, hour"
    requests = client.get("/openapi.json").json()["components"]["schemas"]
    for name in ("ScoreRequest", "RankRequest"):
        documented = requests[name]["properties"]["context"]["anyOf"][0]
        assert list(documented["properties"]) == ["device", "hour"]
        assert documented["additionalProperties"] is False


def test_ranks(client: TestClient, scorer: Scorer) -> None:
    answer = client.post("/v1/rank", json={"user_id": "u4", "k": 3}).json()
    RankAnswer.model_validate(answer)
    assert [item["item_id"] for item in answer["items"]] == scorer.rank("u4", 3).item_ids
    body = {"user_id": "u4", "k": 3, "item_ids": ["i5", "i6"], "history": []}
    assert len(client.post("/v1/rank", json=body).json()["items"]) == 2


def test_every_answer_says_where_it_comes_from(client: TestClient, scorer: Scorer) -> None:
    answers = [
        client.post("/v1/score", json={"user_id": "u4", "item_ids": ["i1"]}),
        client.post("/v1/rank", json={"user_id": "u4", "k": 1}),
        client.get("/v1/model"),
        client.get("/healthz"),
    ]
    for answer in answers:
        assert answer.json()["model_version"] == "films/3"
        assert answer.json()["knowledge"] == scorer.bundle.fingerprints["knowledge"]
    card = ModelAnswer.model_validate(answers[2].json())
    assert (card.num_items, card.rating_range, card.max_items) == (40, [1, 5], MAX_ITEMS)
    assert HealthAnswer.model_validate(answers[3].json()).status == "ok"


def test_unknown_ids_are_scored_and_named(client: TestClient) -> None:
    body = {
        "user_id": 99,
        "item_ids": ["i1", "nothing", -3],
        "history": [{"item_id": "gone", "rating": 3}],
    }
    answer = client.post("/v1/score", json=body).json()
    assert len(answer["scores"]) == 3
    assert answer["unknown"] == {
        "user_ids": [99],
        "item_ids": ["nothing", -3],
        "history_item_ids": ["gone"],
        "context": [],
    }


@pytest.mark.parametrize(("path", "body", "status", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_refused_with_a_sentence(
    client: TestClient, path: str, body: str | bytes, status: int, message: str
) -> None:
    answer = client.post(path, content=body)
    assert answer.status_code == status
    assert answer.json().keys() == {"error"}
    error = answer.json()["error"]
    assert message in error
    assert "\n" not in error
    assert len(error) < 200


@pytest.mark.security
@pytest.mark.parametrize("declared", [True, False])
def test_huge_bodies_are_refused(client: TestClient, declared: bool) -> None:
    chunks = (b" " * (1 << 20) for _ in range(10))
    headers = {"content-length": str(10 << 20)} if declared else {}
    answer = client.post("/v1/score", content=chunks, headers=headers)
    assert answer.status_code == 413
    assert "larger than" in answer.json()["error"]


def test_ten_thousand_items_are_answered(client: TestClient) -> None:
    body = {"user_id": "u1", "item_ids": [f"item-{n:030}" for n in range(MAX_ITEMS)]}
    answer = client.post("/v1/score", json=body)
    assert len(answer.json()["scores"]) == MAX_ITEMS


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/score", 405), ("DELETE", "/v1/model", 405), ("GET", "/v2/model", 404)],
)
def test_wrong_paths_and_methods(client: TestClient, method: str, path: str, status: int) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status
    assert answer.json().keys() == {"error"}


def test_openapi_describes_requests_and_answers(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    operation = document["paths"]["/v1/score"]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    assert schema == {"$ref": "#/components/schemas/ScoreRequest"}
    assert operation["responses"].keys() == {"200", "4XX"}
    assert {"ScoreRequest", "RankRequest", "HistoryEntry", "ErrorAnswer"} <= (
        document["components"]["schemas"].keys()
    )
    assert client.get("/docs").status_code == 200
