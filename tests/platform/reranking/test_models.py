"""Re-rankers: shapes, padding, order, and the list-wise loss."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lorecast.config import ModelConfig, RerankingConfig
from lorecast.models.inputs import Batch
from lorecast.reranking.models import (
    DLCM,
    PRM,
    ReRanker,
    SetRank,
    attention_loss,
    sinusoids,
)
from tests import planted

MODEL = ModelConfig(embedding_dim=8, mlp_hidden=(16,))
INPUTS = 12
LIST_MODELS = {"dlcm": DLCM, "prm": PRM, "setrank": SetRank}
EVERY = pytest.mark.parametrize("name", LIST_MODELS)


def _lists(name: str, lists: int = 3, items: int = 6) -> tuple[nn.Module, Tensor, Tensor]:
    """A model with random weights, x_WKI, and a mask of 6, 4 and 1 items."""
    torch.manual_seed(0)
    model = LIST_MODELS[name](INPUTS, MODEL)
    mask_WK = torch.arange(items) < torch.tensor([[6], [4], [1]])[:lists]
    return model, torch.randn(lists, items, INPUTS), mask_WK


@EVERY
@pytest.mark.parametrize("training", [True, False])
def test_what_the_mask_leaves_out_has_no_influence(name: str, training: bool) -> None:
    model, x_WKI, mask_WK = _lists(name)
    other_WKI = torch.where(mask_WK[:, :, None], x_WKI, 100 * torch.randn_like(x_WKI))
    model.train(training)
    torch.testing.assert_close(
        model(other_WKI, mask_WK)[mask_WK], model(x_WKI, mask_WK)[mask_WK], rtol=0, atol=1e-6
    )


@EVERY
def test_a_list_is_scored_as_without_its_padding_and_without_other_lists(name: str) -> None:
    model, x_WKI, mask_WK = _lists(name)
    model.eval()
    together_WK = model(x_WKI, mask_WK)
    assert together_WK.shape == mask_WK.shape
    for w, length in enumerate(mask_WK.sum(1)):
        alone = model(x_WKI[w : w + 1, :length], mask_WK[w : w + 1, :length])
        torch.testing.assert_close(alone[0], together_WK[w, :length], rtol=0, atol=1e-5)


@EVERY
def test_an_items_score_depends_on_the_other_items(name: str) -> None:
    model, x_WKI, mask_WK = _lists(name)
    model.eval()
    changed_WKI = x_WKI.clone()
    changed_WKI[:, 1] += 1
    changed_WK = (model(changed_WKI, mask_WK) - model(x_WKI, mask_WK)).abs() > 1e-6
    assert changed_WK[:2, 0].all()
    assert changed_WK[:2, 2:4].all()


@EVERY
def test_only_setrank_is_equivariant_to_permutations(name: str) -> None:
    model, x_WKI, mask_WK = _lists(name, lists=1)
    model.eval()
    order_K = torch.tensor([3, 0, 5, 1, 4, 2])
    moved_K = model(x_WKI[:, order_K], mask_WK)[0]
    same = torch.allclose(moved_K, model(x_WKI, mask_WK)[0, order_K], atol=1e-5)
    assert same == (name == "setrank")


def test_sinusoids_are_those_of_the_published_formula() -> None:
    position_KI = sinusoids(7, 5)
    for k in range(7):
        for i in range(5):
            angle = k / 10_000 ** (2 * (i // 2) / 5)
            expected = math.cos(angle) if i % 2 else math.sin(angle)
            assert float(position_KI[k, i]) == pytest.approx(expected, abs=1e-5)


def test_attention_loss_is_cross_entropy_of_shares() -> None:
    logit_WK = torch.tensor([[2.0, -1.0, 0.5, 9.0], [1.0, 1.0, 1.0, 1.0]], requires_grad=True)
    label_WK = torch.tensor([[1.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    mask_WK = torch.tensor([[True, True, True, False], [True, True, True, True]])
    weight = [math.exp(2 / (1 + math.exp(-x))) for x in (2.0, -1.0, 0.5)]
    given = [w / sum(weight) for w in weight]
    wanted = [0.5, 0.0, 0.5]
    expected = -sum(
        y * math.log(a) + (1 - y) * math.log(1 - a) for y, a in zip(wanted, given, strict=True)
    )
    loss = attention_loss(logit_WK, label_WK, mask_WK)
    assert loss.item() == pytest.approx(expected / 3, abs=1e-6)
    loss.backward()  # type: ignore[no-untyped-call]
    assert logit_WK.grad is not None
    assert logit_WK.grad[0, 1] > 0 > logit_WK.grad[0, 2], "it moves attention to clicks"
    assert not logit_WK.grad[1].any(), "nothing was clicked"
    assert not logit_WK.grad[0, 3].any(), "padding"
    assert attention_loss(logit_WK[1:], label_WK[1:], mask_WK[1:]).item() == 0


def test_setrank_alone_learns_from_whole_lists() -> None:
    logit_WK, label_WK = torch.randn(2, 4), torch.eye(4)[:2]
    mask_WK = torch.ones(2, 4, dtype=torch.bool)
    loss = {}
    for name in LIST_MODELS:
        model = ReRanker(MODEL, RerankingConfig(model=name), planted.SCHEMA, None)
        loss[name] = float(model.loss(logit_WK, label_WK, mask_WK))
    assert loss["dlcm"] == loss["prm"]
    added = float(attention_loss(logit_WK, label_WK, mask_WK))
    assert loss["setrank"] == pytest.approx(loss["prm"] + added)


def _batch(rng: np.random.Generator) -> Batch:
    """Two lists of three rows; the last one is padding."""
    samples, _ = planted.world(rng, 6)
    batch = Batch.of(samples)
    item_B = batch.item_row_B.clone()
    item_B[5] = 0
    return replace(batch, item_row_B=item_B)


@EVERY
@pytest.mark.parametrize("extractor", [None, "kser", "hein"])
@pytest.mark.parametrize("history", [True, False])
def test_rerankers_read_features_and_knowledge(
    name: str, extractor: str | None, history: bool, rng: np.random.Generator
) -> None:
    _, vectors = planted.world(rng, 10)
    model_config = MODEL.model_copy(update={"extractor": extractor or "kser"})
    shape = planted.SHAPE if extractor else None
    torch.manual_seed(0)
    config = RerankingConfig(model=name, history=history)
    model = ReRanker(model_config, config, planted.SCHEMA, shape)
    codes = planted.codes(rng)
    model.attach(*codes, vectors if extractor else None)
    model.eval()
    batch, mask_WK = _batch(rng), torch.tensor([[True] * 3, [True, True, False]])
    logit_WK = model(batch, mask_WK)
    assert logit_WK.shape == (2, 3)
    logit_WK[mask_WK].sum().backward()
    if model.extractor:
        assert any(p.grad is not None and p.grad.any() for p in model.extractor.parameters())

    other = replace(batch, history_item_BL=(batch.history_item_BL + 1) % planted.NUM_ITEMS)
    reads = not torch.equal(model(other, mask_WK)[mask_WK], logit_WK[mask_WK])
    assert reads == (history or extractor == "kser"), "KSER asks with the history's fields"

    if extractor:
        model.attach(*codes, vectors.shuffled(rng))
        assert not torch.allclose(model(batch, mask_WK)[mask_WK], logit_WK[mask_WK])
