"""Training re-rankers: what is learned, what is reported, that it can be repeated."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from lorecast.config import ModelConfig, RerankingConfig, Strategy
from lorecast.data.dataset import Dataset
from lorecast.encoding.vectors import VectorsTable
from lorecast.errors import LeakageError, TrainingError
from lorecast.evaluation.ranking import ranking_metrics
from lorecast.reranking.lists import Lists
from lorecast.reranking.models import ReRanker
from lorecast.reranking.recipe import Recipe
from lorecast.reranking.training import Epoch, figures, fit, predict, train, write
from tests import planted
from tests.small_bundle import write_vectors

MODEL = ModelConfig(embedding_dim=8, mlp_hidden=(16,))
RERANKING = RerankingConfig(epochs=4, patience=2, batch_size=16, learning_rate=3e-3)


def _recipe(strategy: Strategy = "base", seed: int = 0, **reranking: Any) -> Recipe:
    config = RERANKING.model_copy(update=reranking)
    return Recipe(model=MODEL, reranking=config, strategy=strategy, seed=seed)


def _lists(item_row_WK: list[list[int]], label_WK: list[list[int]]) -> Lists:
    samples, _ = planted.world(np.random.default_rng(0), len(item_row_WK))
    return Lists(
        first=samples,
        item_row_WK=np.array(item_row_WK, np.int32),
        label_WK=np.array(label_WK, np.int8),
    )


def test_figures_are_means_over_lists_with_a_click() -> None:
    lists = _lists(
        [[1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 0]],
        [[0, 1, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0]],
    )
    score_WK = np.array([[0.1, 0.9, 0.2, 0.8], [1, 2, 3, 4], [0.5, 0.7, 0.5, -np.inf]], np.float32)
    found = figures(lists, score_WK, [1, 2, 9])
    assert found["clicks@1"] == pytest.approx((1 + 0) / 2)
    assert found["clicks@2"] == pytest.approx((1 + 1) / 2), "equal scores keep their order"
    assert found["clicks@9"] == pytest.approx((2 + 1) / 2)
    assert found["map@2"] == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert found["ndcg@1"] == pytest.approx(0.5)


def _planted(rng: np.random.Generator, num_lists: int) -> tuple[Lists, planted.Vectors]:
    """Lists of users with a taste only knowledge tells; a click is what matches it."""
    samples, vectors = planted.world(rng, num_lists * 6)
    first = samples.take(slice(None, None, 6))
    user_WK = np.repeat(first.user_row_B, 6).reshape(-1, 6)
    item_WK = samples.item_row_B.reshape(-1, 6)
    taste = vectors.vectors("user")[:, 0, 0]
    kind = vectors.vectors("item")[:, 0, 0]
    label_WK = (taste[user_WK] == kind[item_WK]).astype(np.int8)
    return Lists(first=first, item_row_WK=item_WK, label_WK=label_WK), vectors


@pytest.mark.invariant
@pytest.mark.parametrize("name", ["dlcm", "prm", "setrank"])
def test_true_knowledge_orders_lists_shuffled_does_not(name: str) -> None:
    found = {}
    for knowledge in ("true", "shuffled"):
        rng = np.random.default_rng(0)
        lists, vectors = _planted(rng, 1000)
        train_part, valid, test = (
            Lists(
                first=lists.first.take(places),
                item_row_WK=lists.item_row_WK[places],
                label_WK=lists.label_WK[places],
            )
            for places in np.split(np.arange(1000), [700, 800])
        )
        config = RerankingConfig(
            model=name, list_length=6, epochs=6, batch_size=32, learning_rate=3e-3
        )
        torch.manual_seed(0)
        model = ReRanker(MODEL, config, planted.SCHEMA, planted.SHAPE)
        store = vectors.shuffled(rng) if knowledge == "shuffled" else vectors
        model.attach(*planted.codes(rng), store)
        epochs = fit(model, train_part, valid, config, seed=0)
        found[knowledge] = figures(test, predict(model, test), [5])["map@5"]
        best = max(epoch.valid_map for epoch in epochs)
        assert figures(valid, predict(model, valid), [5])["map@5"] == best, "the best is kept"
    chance = figures(test, np.zeros(test.label_WK.shape, np.float32), [5])["map@5"]
    assert found["true"] > 0.9
    assert abs(found["shuffled"] - chance) < 0.06


def test_patience_ends_training(tiny_dataset: Dataset) -> None:
    seen: list[Epoch] = []
    done = train(_recipe(epochs=60), tiny_dataset, None, seen.append)
    assert done.epochs == tuple(seen)
    assert seen[done.best_epoch - 1].valid_map == max(epoch.valid_map for epoch in seen)
    assert len(seen) == done.best_epoch + 2 < 60


@pytest.fixture
def dataset(make_tiny_dataset: Callable[..., Dataset]) -> Dataset:
    return make_tiny_dataset(num_users=90)


@pytest.fixture
def vectors(tmp_path: Path, dataset: Dataset) -> VectorsTable:
    return write_vectors(tmp_path / "workspace", dataset)


@pytest.mark.invariant
@pytest.mark.parametrize("name", ["dlcm", "prm", "setrank"])
def test_same_seed_same_figures(name: str, dataset: Dataset, vectors: VectorsTable) -> None:
    def run(seed: int) -> tuple[list[Epoch], dict[str, dict[str, float]]]:
        done = train(_recipe("all_parameters", seed, model=name), dataset, vectors)
        return [replace(epoch, seconds=0) for epoch in done.epochs], done.metrics

    first, again, other = run(0), run(0), run(1)
    assert first == again
    assert first[0] != other[0]
    assert first[1]["first_ranker"] == other[1]["first_ranker"], "lists are the same"


def test_files_hold_what_was_measured(
    tmp_path: Path, dataset: Dataset, vectors: VectorsTable
) -> None:
    done = train(_recipe("all_parameters"), dataset, vectors)
    facts = write(tmp_path, done)
    scores = pq.read_table(tmp_path / "scores.parquet").to_pandas()
    assert len(scores) == 10 * facts["lists"]["test"]
    assert scores.groupby("list")["user_row"].nunique().eq(1).all()
    again = ranking_metrics(scores["list"], scores["label"], scores["score"], [5])
    assert facts["metrics"]["test"]["map@5"] == again["map@5"]
    epochs = json.loads((tmp_path / "curves.json").read_text())
    assert len(epochs) == facts["epochs"]
    assert facts["metrics"]["valid"]["map@5"] == epochs[facts["best_epoch"] - 1]["valid_map"]
    state = load_file(tmp_path / "weights.safetensors")
    assert all(torch.equal(value, state[name]) for name, value in done.model.state_dict().items())


def test_identity_holds_what_decides_and_no_more() -> None:
    def identity(strategy: Strategy, **model: Any) -> dict[str, Any]:
        recipe = _recipe(strategy)
        return replace(recipe, model=MODEL.model_copy(update=model)).identity()

    assert identity("base", backbone="dcnv2", extractor="hein") == identity("base")
    assert identity("all_parameters", backbone="autoint") == identity("all_parameters")
    assert identity("all_parameters", extractor="hein") != identity("all_parameters")
    assert identity("base", embedding_dim=4) != identity("base")
    assert _recipe(list_length=8).identity() != _recipe().identity()


def test_knowledge_that_has_seen_a_lists_interactions_is_refused(
    dataset: Dataset, vectors: VectorsTable
) -> None:
    np.save(vectors.path / "user_history_end.npy", dataset.history_end() + 1)
    late = VectorsTable.open(vectors.path)
    with pytest.raises(LeakageError, match="has seen samples"):
        train(_recipe("all_parameters"), dataset, late)


@pytest.mark.bad_input
def test_a_loss_that_is_no_number_is_said(dataset: Dataset) -> None:
    with pytest.raises(TrainingError, match=r"loss is nan.*reranking\.learning_rate"):
        train(_recipe(learning_rate=1e30), dataset, None)
