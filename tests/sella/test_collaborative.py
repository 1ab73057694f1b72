"""The collaborative model: it learns, its contrast is as written, its forms work."""

import math

import numpy as np
import pytest
import torch

from lorecast.config import AlignConfig
from lorecast.sella.collaborative import (
    CollaborativeLearner,
    CollaborativeModel,
    info_nce,
    probabilities,
    robust_info_nce,
)
from lorecast.sella.fitting import Schedule, fit
from lorecast.sella.rows import PromptRows

_SCHEDULE = Schedule(
    epochs=12, checks=1, batch_size=128, learning_rate=0.02, weight_decay=0.1, decays=False
)


def _planted(rng: np.random.Generator, count: int) -> PromptRows:
    """Users like the items of their own half."""
    user_B = rng.integers(1, 31, count).astype(np.int32)
    item_B = rng.integers(1, 41, count).astype(np.int32)
    likes_B = (user_B % 2 == item_B % 2) ^ (rng.random(count) < 0.1)
    return PromptRows(
        user_row_B=user_B,
        item_row_B=item_B,
        liked_BM=np.zeros((count, 2), np.int32),
        label_B=likes_B.astype(np.float32),
    )


_MF = AlignConfig(dim=8)


@pytest.mark.parametrize("kind", ["mf", "lightgcn"])
def test_it_learns_who_likes_what(kind: str, rng: np.random.Generator) -> None:
    train, valid = _planted(rng, 1500), _planted(rng, 500)
    torch.manual_seed(0)
    model = CollaborativeModel(AlignConfig.model_validate({"model": kind, "dim": 8}), 30, 40)
    model.connect(train)
    trained = fit(CollaborativeLearner(model, train, valid), _SCHEDULE, seed=0)
    assert trained.valid["auc"] > 0.8
    user_RD, item_RD = (table.detach().numpy() for table in model.tables())
    assert probabilities(user_RD, item_RD, valid).shape == (500,)
    assert not user_RD[0].any()


def test_newcomers_are_the_mean_of_those_who_have_clicked(rng: np.random.Generator) -> None:
    planted = _planted(rng, 1500)
    train = planted.take(np.flatnonzero((planted.user_row_B > 10) & (planted.item_row_B != 3)))
    model = CollaborativeModel(_MF, 30, 40)
    model.connect(train)
    user_RD, item_RD = (table.detach() for table in model.tables())
    learned_user_RD, learned_item_RD = model.learned()
    assert torch.equal(learned_user_RD[11:], user_RD[11:])
    assert torch.equal(learned_user_RD[:11], user_RD[11:].mean(0).expand(11, -1))
    known_R = torch.ones(41, dtype=torch.bool)
    known_R[[0, 3]] = False
    assert torch.equal(learned_item_RD[known_R], item_RD[known_R])
    assert torch.equal(learned_item_RD[[0, 3]], item_RD[known_R].mean(0).expand(2, -1))
    faithful = CollaborativeModel(_MF, 30, 40, faithful=True)
    faithful.connect(train)
    assert torch.equal(faithful.learned()[0], faithful.tables()[0])


def test_alignment_draws_items_to_their_vectors(rng: np.random.Generator) -> None:
    semantic_RH = rng.normal(size=(41, 16)).astype(np.float32)
    train = _planted(rng, 1500)
    torch.manual_seed(0)
    config = AlignConfig(dim=8, hidden=32)
    model = CollaborativeModel(config, 30, 40, semantic_RH)
    before = _own_is_nearest(model)
    fit(CollaborativeLearner(model, train, train), _SCHEDULE, seed=0)
    assert before < 0.2
    assert _own_is_nearest(model) > 0.8
    np.testing.assert_array_equal(model.semantic.detach(), semantic_RH)


def _own_is_nearest(model: CollaborativeModel) -> float:
    """Share of items whose own vector is the one their projection is nearest to."""
    assert model.projection is not None
    with torch.no_grad():
        projected = torch.nn.functional.normalize(model.projection(model.item.weight[1:]), dim=1)
        cosines = projected @ torch.nn.functional.normalize(model.semantic[1:], dim=1).T
    return float((cosines.argmax(1) == torch.arange(40)).float().mean())


def test_an_item_that_stands_twice_in_a_batch_is_no_negative_of_itself() -> None:
    semantic_RH = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    torch.manual_seed(0)
    model = CollaborativeModel(AlignConfig(dim=4, hidden=8), 3, 4, semantic_RH)
    once = torch.tensor([1, 2, 3])
    label = torch.ones(3)
    twice = torch.tensor([1, 2, 3, 1, 2, 3])
    apart = model.loss(once, once, label)
    together = model.loss(twice % 4, twice, torch.ones(6))
    torch.testing.assert_close(apart, together)


def test_the_contrasts_are_as_written() -> None:
    torch.manual_seed(0)
    left, right = torch.randn(4, 6), torch.randn(4, 6)
    pair = [
        [math.exp(float(torch.cosine_similarity(a, b, dim=0)) / 0.2) for b in right] for a in left
    ]
    plain = np.mean([-math.log(pair[i][i] / sum(pair[i])) for i in range(4)])
    assert info_nce(left, right, 0.2).item() == pytest.approx(plain, rel=1e-5)
    rho, share = 0.01, 0.1
    robust = np.mean(
        [
            -(pair[i][i] ** rho) / rho + (share * (pair[i][i] + sum(pair[i]))) ** rho / rho
            for i in range(4)
        ]
    )
    assert robust_info_nce(left, right, 0.2).item() == pytest.approx(robust, rel=1e-3)
