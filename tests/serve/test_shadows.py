"""Shadows behind a real scorer: never seen in an answer, never in its way."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from scipy.stats import spearmanr
from starlette.testclient import TestClient

from lorecast.lifecycle.scorer import Scorer
from lorecast.serve import shadows as shadows_module
from lorecast.serve.app import create_app
from lorecast.serve.following import Target
from lorecast.serve.front import front
from lorecast.serve.shadows import Rival, Shadow, Shadows, rank_agreement
from lorecast.serve.swapping import Swap
from tests.serve.figures import samples
from tests.small_bundle import write_small_bundle
from tests.tiny_dataset import write_tiny_dataset

_ITEMS = [f"i{n}" for n in range(1, 41)]
_SCORE = {"user_id": "u4", "item_ids": _ITEMS}
_SHADOW = {"replica": "r1", "arm": "candidate", "model": "films/2"}


@pytest.fixture(scope="module")
def scorers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Scorer, Scorer]:
    """The main model's, and the shadow's."""
    workspace: Path = tmp_path_factory.mktemp("workspace")
    dataset = write_tiny_dataset(workspace)
    main, shadow = (
        Scorer.load(write_small_bundle(workspace / str(seed), dataset, seed=seed))
        for seed in (1, 2)
    )
    return main, shadow


class Waiting:
    """A scorer that waits until it may go on."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self.began = threading.Event()
        self.may_go_on = threading.Event()

    def candidates(self, *query: Any) -> Any:
        self.began.set()
        assert self.may_go_on.wait(30)
        return self._scorer.candidates(*query)


class Broken:
    """A scorer that fails."""

    def candidates(self, *_: Any) -> Any:
        raise IndexError("no such row")


Serve = Callable[..., tuple[TestClient, Shadows]]


@pytest.fixture
def serve(scorers: tuple[Scorer, Scorer]) -> Serve:
    """The main model with one shadow, `candidate`."""

    def made(
        scorer: Any = scorers[1], share: float = 1.0, log: str | None = None
    ) -> tuple[TestClient, Shadows]:
        rival = Rival(version="films/2", scorer=scorer)
        swap = Swap(lambda _: rival, Target(folder=Path(), version="films/2"))
        metrics = CollectorRegistry()
        shadows = Shadows(
            {"candidate": Shadow(share=share, swap=swap)},
            salt="spring",
            replica="r1",
            metrics=metrics,
            log=log,
        )
        app = create_app(scorers[0], model_version="films/1", max_items=100, shadows=shadows)
        layers = front(app, token_digest=None, replica="r1", access_log=False, metrics=metrics)
        return TestClient(layers), shadows

    return made


def _outcomes(client: TestClient) -> Mapping[str, float]:
    value = samples(client)
    counted = {
        outcome: value("lorecast_shadow_requests_total", **_SHADOW, outcome=outcome)
        for outcome in ("scored", "failed", "dropped")
    }
    return {outcome: count for outcome, count in counted.items() if count}


def test_answers_are_the_main_models_alone(serve: Serve, scorers: tuple[Scorer, Scorer]) -> None:
    client, shadows = serve()
    alone = TestClient(create_app(scorers[0], model_version="films/1", max_items=100))
    for path, body in [
        ("/v1/score", _SCORE),
        ("/v1/score", {"user_id": "new", "item_ids": ["i1", "new"], "history": []}),
        ("/v1/rank", {"user_id": "u4", "k": 5}),
        ("/v1/score", {"user_id": "u4", "item_ids": []}),
    ]:
        answer, expected = client.post(path, json=body), alone.post(path, json=body)
        assert (answer.status_code, answer.content) == (expected.status_code, expected.content)
    shadows.drain()
    assert _outcomes(client) == {"scored": 3}


def test_compares_and_logs_both_scores(
    serve: Serve, scorers: tuple[Scorer, Scorer], tmp_path: Path
) -> None:
    client, shadows = serve(log=str(tmp_path / "log"))
    history = [{"item_id": "i3", "rating": 5}]
    client.post("/v1/score", json=_SCORE | {"history": history}, headers={"x-request-id": "shop-7"})
    client.post("/v1/rank", json={"user_id": "u4", "k": 5}, headers={"authorization": "Bearer x"})
    shadows.drain()
    (file,) = (tmp_path / "log").iterdir()
    first, second = map(json.loads, file.read_text().splitlines())
    assert (first["id"], first["user_id"], first["item_ids"]) == ("shop-7", "u4", _ITEMS)
    assert (first["arm"], first["model"], first["arm_model"]) == ("candidate", "films/1", "films/2")
    one_N, other_N = (s.candidates("u4", _ITEMS, [("i3", 5)]).score_N for s in scorers)
    np.testing.assert_array_equal(np.array(first["scores"], np.float32), one_N)
    np.testing.assert_array_equal(np.array(first["arm_scores"], np.float32), other_N)
    ranked = scorers[0].rank("u4", 5)
    assert second["item_ids"] == ranked.item_ids
    again_N = scorers[1].candidates("u4", ranked.item_ids).score_N
    np.testing.assert_array_equal(np.array(second["arm_scores"], np.float32), again_N)
    assert "Bearer" not in file.read_text()
    value = samples(client)
    apart = np.abs(one_N - other_N).mean() + np.abs(ranked.score_N - again_N).mean()
    agreement = rank_agreement(one_N, other_N) + rank_agreement(ranked.score_N, again_N)
    for name, total in [("score_difference", apart), ("rank_agreement", agreement)]:
        assert value(f"lorecast_shadow_{name}_count", **_SHADOW) == 2
        assert value(f"lorecast_shadow_{name}_sum", **_SHADOW) == pytest.approx(total, abs=1e-6)
    assert value("lorecast_shadow_seconds_count", **_SHADOW) == 2


def test_answers_wait_for_no_shadow_and_what_does_not_fit_is_dropped(
    serve: Serve, scorers: tuple[Scorer, Scorer]
) -> None:
    slow = Waiting(scorers[1])
    client, shadows = serve(slow)
    client.post("/v1/score", json=_SCORE)
    assert slow.began.wait(30)
    for _ in range(shadows_module._MOST_WAITING + 3):
        assert client.post("/v1/score", json=_SCORE).status_code == 200
    assert _outcomes(client) == {"dropped": 3}
    slow.may_go_on.set()
    shadows.drain()
    assert _outcomes(client) == {"dropped": 3, "scored": shadows_module._MOST_WAITING + 1}


def test_a_shadow_that_fails_is_counted_and_told_once(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    client, shadows = serve(Broken())
    for _ in range(5):
        assert client.post("/v1/score", json=_SCORE).status_code == 200
    shadows.drain()
    assert _outcomes(client) == {"failed": 5}
    (said,) = caplog.messages
    assert said == "the shadow candidate failed: films/2: IndexError('no such row')"


def test_a_share_of_the_requests_is_shadowed(serve: Serve) -> None:
    client, shadows = serve(share=0.5)
    body = {"user_id": "u4", "item_ids": ["i1"]}
    for n in range(100):
        client.post("/v1/score", json=body, headers={"x-request-id": f"r{n}"})
        if n == 50:
            shadows.drain()
    shadows.drain()
    outcomes = _outcomes(client)
    assert outcomes.keys() == {"scored"}
    assert abs(outcomes["scored"] - 50) <= 20, "four deviations"


def test_a_request_is_drawn_by_its_id(serve: Serve) -> None:
    client, shadows = serve(share=0.5)
    for _ in range(20):
        client.post("/v1/score", json=_SCORE, headers={"x-request-id": "shop-7"})
    shadows.drain()
    assert _outcomes(client).get("scored", 0) in (0, 20)


@pytest.fixture
def score_pairs(rng: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    return ((rng.random(n), rng.random(n)) for n in (2, 3, 17, 1000))


def test_rank_agreement_is_spearmans(score_pairs: Iterator[tuple[Any, Any]]) -> None:
    for one_N, other_N in score_pairs:
        expected = spearmanr(one_N, other_N).statistic
        assert rank_agreement(one_N, other_N) == pytest.approx(expected)
        assert rank_agreement(one_N, one_N) == 1
        assert rank_agreement(one_N, -one_N) == -1
