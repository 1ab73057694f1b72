"""Extractor-only: a frozen backbone, bit for bit the same before the first step and after all."""

import numpy as np
import pytest
import torch
from torch import Tensor

from lorecast.config import ModelConfig, TrainingConfig
from lorecast.models.click_model import ClickModel
from lorecast.training.loop import fit, predict
from lorecast.training.splits import Labelled
from tests import planted

CONFIG = ModelConfig(embedding_dim=8)
TRAINING = TrainingConfig(epochs=6, batch_size=256, learning_rate=3e-3)


@pytest.fixture(scope="module")
def parts() -> tuple[list[Labelled], planted.Vectors]:
    samples, vectors = planted.world(np.random.default_rng(0), 12_000)
    names = ("train", "valid", "test")
    return [Labelled.of(p, n) for p, n in zip(planted.parts(samples), names, strict=True)], vectors


@pytest.fixture(scope="module")
def base(parts: tuple[list[Labelled], planted.Vectors]) -> ClickModel:
    """A bare backbone that was trained, as well as it can be without knowledge."""
    (train, valid, _), _ = parts
    torch.manual_seed(0)
    model = ClickModel(CONFIG, planted.SCHEMA, None)
    model.attach(*planted.codes(np.random.default_rng(1)), None)
    fit(model, train, valid, TRAINING, seed=0)
    return model.eval()


def residual(base: ClickModel, vectors: planted.Vectors) -> ClickModel:
    torch.manual_seed(1)
    model = ClickModel(CONFIG, planted.SCHEMA, planted.SHAPE, residual=True)
    model.attach(*planted.codes(np.random.default_rng(1)), vectors)
    model.start_from_vectors()
    model.load_backbone(base.state_dict())
    return model


def frozen(model: ClickModel) -> dict[str, Tensor]:
    state = model.state_dict()
    return {name: value.clone() for name, value in state.items() if "extractor." not in name}


@pytest.mark.invariant
def test_before_the_first_step_it_scores_like_the_backbone(
    parts: tuple[list[Labelled], planted.Vectors], base: ClickModel
) -> None:
    (_, _, test), vectors = parts
    np.testing.assert_array_equal(
        predict(residual(base, vectors), test.rows), predict(base, test.rows)
    )


@pytest.mark.invariant
def test_training_moves_the_extractor_alone_and_helps(
    parts: tuple[list[Labelled], planted.Vectors], base: ClickModel
) -> None:
    (train, valid, test), vectors = parts
    model = residual(base, vectors)
    before = frozen(model)
    trained = fit(model, train, valid, TRAINING, seed=0, keeps_start=True)
    after = frozen(model)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before), "statistics, too"
    assert trained.start is not None
    assert trained.start.auc == valid.metrics(predict(base, valid.rows)).auc
    assert trained.valid.auc > trained.start.auc + 0.1
    assert test.metrics(predict(model, test.rows)).auc > 0.7


@pytest.mark.invariant
def test_what_only_hurts_is_not_kept(
    parts: tuple[list[Labelled], planted.Vectors], base: ClickModel
) -> None:
    (train, valid, _), vectors = parts
    model = residual(base, vectors)
    against = Labelled(train.rows, 1 - train.label_B)
    trained = fit(model, against, valid, TRAINING, seed=0, keeps_start=True)
    assert trained.best_epoch == 0
    assert trained.valid == trained.start
    np.testing.assert_array_equal(predict(model, valid.rows), predict(base, valid.rows))


def test_every_parameter_of_the_extractor_learns(
    parts: tuple[list[Labelled], planted.Vectors], base: ClickModel
) -> None:
    (train, _, _), vectors = parts
    model = residual(base, vectors).train()
    assert not model.backbone.training
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model(train.rows.slice(0, 256)).square().sum().backward()
    learning = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert learning == {name for name, _ in model.named_parameters() if "extractor." in name}
