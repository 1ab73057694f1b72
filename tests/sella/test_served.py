"""A bundle of kind sella: goes anywhere, scores as offline, answers like any other."""

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from starlette.testclient import TestClient

import lorecast
from lorecast.config.sella import Method
from lorecast.data.batches import load_samples
from lorecast.data.dataset import Dataset
from lorecast.errors import ArtifactError, InputError
from lorecast.lifecycle.bundle import Bundle
from lorecast.lifecycle.offline import PairColumns, score_pairs
from lorecast.lifecycle.scorer import Scorer
from lorecast.sella.language import AnsweringModel
from lorecast.serve.app import create_app
from lorecast.serve.schema import ModelAnswer, RankAnswer, ScoreAnswer
from tests.sella.small_sella import write_sella, write_small_sella_bundle
from tests.sella.tiny_llm import write_tiny_llm
from tests.serve.bad_requests import BAD, MAX_ITEMS
from tests.tiny_dataset import write_tiny_dataset

ITEMS = [f"i{n}" for n in range(1, 21)]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, tiny_llm: Path) -> Path:
    workspace: Path = tmp_path_factory.mktemp("workspace")
    return write_small_sella_bundle(workspace, write_tiny_dataset(workspace), tiny_llm)[0]


@pytest.fixture(scope="module")
def scorer(bundle: Path) -> Scorer:
    return lorecast.load(bundle)


@pytest.fixture(scope="module")
def client(scorer: Scorer) -> TestClient:
    return TestClient(create_app(scorer, model_version="films/3", max_items=MAX_ITEMS))


@pytest.mark.invariant
@pytest.mark.parametrize("method", ["sella", "text"])
def test_scores_are_the_offline_ones(tmp_path: Path, method: Method) -> None:
    workspace, llm = tmp_path / "workspace", write_tiny_llm(tmp_path / "llm")
    dataset = write_tiny_dataset(workspace)
    folder, offline = write_small_sella_bundle(workspace, dataset, llm, method)
    samples = load_samples(dataset, "test")
    moved = folder.rename(tmp_path / "moved")
    shutil.rmtree(workspace)
    shutil.rmtree(llm)
    scorer = lorecast.load(moved)
    scores = scorer.score(
        [f"u{row}" for row in samples.user_row_B],
        [f"i{row}" for row in samples.item_row_B],
        _histories(dataset, samples.history_item_BL, samples.history_rating_BL),
    )
    np.testing.assert_allclose(scores, offline, rtol=0, atol=1e-5)
    assert np.ptp(scores) > 1e-3
    assert (scorer.bundle.kind, scorer.bundle.strategy) == ("sella", method)
    kept = {file.suffix for file in moved.rglob("*") if file.is_file()}
    assert kept <= {".json", ".safetensors", ".parquet", ".jinja"}


def test_a_user_s_candidates_are_one_forward_pass(
    scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = scorer.score(["u3"] * 20, ITEMS)
    passes = []
    logit: Callable[..., Any] = AnsweringModel.logit

    def counted(self: AnsweringModel, prompts: Any, batch: Any, vectors: Any = None) -> Any:
        passes.append((len(batch.prefix_GP), len(batch.group_B)))
        return logit(self, prompts, batch, vectors)

    monkeypatch.setattr(AnsweringModel, "logit", counted)
    score_N = scorer.candidates("u3", ITEMS).score_N
    np.testing.assert_array_equal(score_N, pairs)
    assert passes == [(1, 20)]
    assert np.ptp(score_N) > 1e-3


def test_histories_of_a_request_replace_the_recent_one(scorer: Scorer) -> None:
    usual = scorer.candidates("u3", ITEMS).score_N
    liked = scorer.candidates("u3", ITEMS, [("i7", 5), ("i8", 4)]).score_N
    assert not np.allclose(liked, usual)
    with_others = [("i7", 5), ("i9", 1), ("i8", 4), ("gone", 5)]
    scored = scorer.candidates("u3", ITEMS, with_others)
    np.testing.assert_array_equal(scored.score_N, liked)
    assert scored.unknown.history_item_ids == ("gone",)


@pytest.mark.bad_input
def test_unknown_ids_are_scored_and_named(scorer: Scorer) -> None:
    scored = scorer.candidates("nobody", ["i1", "nothing"], [])
    assert np.isfinite(scored.score_N).all()
    assert (scored.unknown.user_ids, scored.unknown.item_ids) == (("nobody",), ("nothing",))
    np.testing.assert_array_equal(
        scorer.candidates("another", ["i1", "else"], []).score_N, scored.score_N
    )
    assert scorer.score([], []).shape == (0,)
    with pytest.raises(InputError, match="the model's contexts are: none"):
        scorer.score(["u1"], ["i1"], contexts=[{"device": "tv"}])


def test_several_threads_get_the_same_scores(bundle: Path) -> None:
    scorer = lorecast.load(bundle)  # nothing is read yet that threads could share
    users = [f"u{n}" for n in range(1, 13)]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda user: scorer.candidates(user, ITEMS).score_N, users))
    expected = [scorer.candidates(user, ITEMS).score_N for user in users]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_answers_over_http_like_any_other(client: TestClient, scorer: Scorer) -> None:
    answer = client.post("/v1/score", json={"user_id": "u4", "item_ids": ITEMS}).json()
    ScoreAnswer.model_validate(answer)
    expected = scorer.candidates("u4", ITEMS).score_N
    np.testing.assert_array_equal(np.array(answer["scores"], np.float32), expected)
    ranked = client.post("/v1/rank", json={"user_id": "u4", "k": 3}).json()
    RankAnswer.model_validate(ranked)
    assert [item["item_id"] for item in ranked["items"]] == scorer.rank("u4", 3).item_ids
    model = ModelAnswer.model_validate(client.get("/v1/model").json())
    assert (model.kind, model.strategy, model.num_items) == ("sella", "sella", 40)
    assert (model.knowledge, model.context, model.rating_range) == (None, [], [1, 5])
    assert model.metrics["valid"]["uauc"] == 0.6
    assert client.get("/healthz").json()["status"] == "ok"


@pytest.mark.bad_input
@pytest.mark.parametrize(("path", "body", "status", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_refused_with_a_sentence(
    client: TestClient, path: str, body: str | bytes, status: int, message: str
) -> None:
    answer = client.post(path, content=body)
    assert answer.status_code == status
    assert message in answer.json()["error"]


@pytest.mark.bad_input
def test_a_language_model_outside_the_bundle_must_be_the_same(tmp_path: Path) -> None:
    llm = write_tiny_llm(tmp_path / "llm")
    dataset = write_tiny_dataset(tmp_path)
    folder, _ = write_small_sella_bundle(tmp_path, dataset, llm, most_mib=0.0)
    assert not (folder / "llm").exists()
    expected = lorecast.load(folder).score(["u1"], ["i1"])
    shutil.move(llm, tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match=r"its language model is not at .*/llm; put"):
        lorecast.load(folder)
    write_tiny_llm(llm, seed=1)
    with pytest.raises(ArtifactError, match=r"another language model .*into .*sella-bundle/llm"):
        lorecast.load(folder)
    shutil.copytree(tmp_path / "elsewhere", folder / "llm")
    np.testing.assert_array_equal(lorecast.load(folder).score(["u1"], ["i1"]), expected)


@pytest.mark.bad_input
def test_broken_bundles_are_named(bundle: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(bundle, broken)
    with pytest.raises(ArtifactError, match="of kind 'sella'; one of kind 'click' is needed"):
        Bundle.open(broken)
    card = (broken / "bundle.json").read_text()
    (broken / "bundle.json").write_text(card.replace('"sella"', '"later"', 1))
    with pytest.raises(ArtifactError, match="of kind 'later', which this version does not know"):
        lorecast.load(broken)
    (broken / "bundle.json").write_text(card)
    weights = broken / "llm" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(ArtifactError, match=r"llm/model\.safetensors has \d+ of \d+ bytes"):
        lorecast.load(broken)
    weights.unlink()
    with pytest.raises(ArtifactError, match=r"llm/model\.safetensors is missing"):
        lorecast.load(broken)


@pytest.mark.bad_input
def test_tokens_of_another_model(tmp_path: Path, tiny_llm: Path) -> None:
    trained, _ = write_sella(tmp_path, write_tiny_dataset(tmp_path), tiny_llm, "collm")
    folder, _ = write_small_sella_bundle(
        tmp_path / "b", write_tiny_dataset(tmp_path / "b"), tiny_llm
    )
    size = (folder / "guide.safetensors").stat().st_size
    shutil.copyfile(trained.path / "guide.safetensors", folder / "guide.safetensors")
    card = folder / "bundle.json"
    found = (folder / "guide.safetensors").stat().st_size
    card.write_text(card.read_text().replace(str(size), str(found)))
    with pytest.raises(ArtifactError, match="do not belong together"):
        lorecast.load(folder)


def _histories(dataset: Dataset, item_BL: Any, level_BL: Any) -> list[list[tuple[str, float]]]:
    levels = (0.0, *dataset.rating_levels)
    return [
        [(f"i{row}", levels[level]) for row, level in zip(items, codes, strict=True) if row]
        for items, codes in zip(item_BL, level_BL, strict=True)
    ]


def test_the_page_ranks_a_few_and_says_what_is_not_there(client: TestClient) -> None:
    answer = client.get("/")
    assert answer.status_code == 200
    words = " ".join(answer.text.split())
    assert "language model" in words
    assert "of 24 items that are not in this history, picked evenly from all" in words
    assert "there is no version of it without" in words
    assert "has no texts about items and users" in words


def test_scores_offline_as_when_served(scorer: Scorer) -> None:
    users = ["u9", "u3", "u9", "nobody"] * 5
    pairs = pa.table({"user_id": users, "item_id": ITEMS})
    scored, counts = score_pairs(scorer, pairs, PairColumns(user="user_id", item="item_id"))
    one_by_one = [
        scorer.candidates(user, [item]).score_N[0] for user, item in zip(users, ITEMS, strict=True)
    ]
    np.testing.assert_allclose(scored["score"], one_by_one, rtol=0, atol=1e-6)
    assert np.ptp(one_by_one) > 1e-3
    assert counts.unknown == {"user": 5, "item": 0}
