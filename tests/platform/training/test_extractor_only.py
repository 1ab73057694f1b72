"""Extractor-only: a frozen backbone, bit for bit the same before the first step and after all."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lorecast.config import KSERConfig, ModelConfig, TrainingConfig, load_config
from lorecast.errors import ConfigError
from lorecast.models.click_model import ClickModel
from lorecast.training.loop import fit, predict
from lorecast.training.splits import Labelled
from tests import planted

CONFIG = ModelConfig(embedding_dim=8)
VARIANTS = {
    "residual": CONFIG,
    "residual with certainty": ModelConfig(embedding_dim=8, kser=KSERConfig(certainty=True)),
    "widen": ModelConfig(embedding_dim=8, injection="widen"),
    "logit": ModelConfig(embedding_dim=8, injection="logit"),
    "widen for hein": ModelConfig(embedding_dim=8, injection="widen", extractor="hein"),
}
TRAINED = ("extractor.", "join.")
EACH = pytest.mark.parametrize("variant", VARIANTS)
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


def injected(variant: str, base: ClickModel, vectors: planted.Vectors) -> ClickModel:
    torch.manual_seed(1)
    model = ClickModel(VARIANTS[variant], planted.SCHEMA, planted.SHAPE, injected=True)
    model.attach(*planted.codes(np.random.default_rng(1)), vectors)
    model.start_from_vectors()
    model.load_backbone(base.state_dict())
    return model


def frozen(model: ClickModel) -> dict[str, Tensor]:
    state = model.state_dict()
    return {name: value.clone() for name, value in state.items() if not name.startswith(TRAINED)}


@pytest.mark.invariant
@EACH
def test_before_the_first_step_it_scores_like_the_backbone(
    variant: str, parts: tuple[list[Labelled], planted.Vectors], base: ClickModel
) -> None:
    (_, _, test), vectors = parts
    np.testing.assert_array_equal(
        predict(injected(variant, base, vectors), test.rows), predict(base, test.rows)
    )


@pytest.mark.invariant
@EACH
def test_training_moves_the_extractor_alone_and_helps(
    variant: str, parts: tuple[list[Labelled], planted.Vectors], base: ClickModel
) -> None:
    (train, valid, test), vectors = parts
    model = injected(variant, base, vectors)
    before = frozen(model)
    assert before.keys() == base.state_dict().keys()
    trained = fit(model, train, valid, TRAINING, seed=0, keeps_start=True)
    after = frozen(model)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before), "statistics, too"
    assert trained.start is not None
    assert trained.start.auc == valid.metrics(predict(base, valid.rows)).auc
    assert trained.valid.auc > trained.start.auc + 0.1
    assert test.metrics(predict(model, test.rows)).auc > 0.7


@EACH
def test_trained_on_from_the_backbone_it_moves_all(
    variant: str, parts: tuple[list[Labelled], planted.Vectors], base: ClickModel
) -> None:
    (train, valid, _), vectors = parts
    model = injected(variant, base, vectors)
    model.load_backbone(base.state_dict(), frozen=False)
    np.testing.assert_array_equal(predict(model, valid.rows), predict(base, valid.rows))
    assert model.train().backbone.training
    model(train.rows.slice(0, 256)).square().sum().backward()
    grads = {name: p.grad for name, p in model.named_parameters() if name in base.state_dict()}
    assert all(grad is not None and grad.any() for grad in grads.values())


@pytest.mark.invariant
def test_what_only_hurts_is_not_kept(
    parts: tuple[list[Labelled], planted.Vectors], base: ClickModel
) -> None:
    (train, valid, _), vectors = parts
    model = injected("residual", base, vectors)
    against = Labelled(train.rows, 1 - train.label_B)
    trained = fit(model, against, valid, TRAINING, seed=0, keeps_start=True)
    assert trained.best_epoch == 0
    assert trained.valid == trained.start
    np.testing.assert_array_equal(predict(model, valid.rows), predict(base, valid.rows))


@EACH
def test_every_parameter_of_the_extractor_learns(
    variant: str, parts: tuple[list[Labelled], planted.Vectors], base: ClickModel
) -> None:
    (train, _, _), vectors = parts
    model = injected(variant, base, vectors).train()
    assert not model.backbone.training
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model(train.rows.slice(0, 256)).square().sum().backward()
    learning = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert learning == {name for name, _ in model.named_parameters() if name.startswith(TRAINED)}


@torch.inference_mode()
def test_widened_it_is_a_first_layer_with_more_inputs(
    parts: tuple[list[Labelled], planted.Vectors], base: ClickModel
) -> None:
    (_, _, test), vectors = parts
    model = injected("widen", base, vectors).eval()
    assert isinstance(model.join, nn.Linear)
    nn.init.normal_(model.join.weight)
    wide = ClickModel(CONFIG, planted.SCHEMA, planted.SHAPE)
    wide.attach(*planted.codes(np.random.default_rng(1)), vectors)
    state = dict(model.state_dict())
    first = state["backbone.head.0.weight"]
    state["backbone.head.0.weight"] = torch.cat([first, state.pop("join.weight")], dim=1)
    wide.load_state_dict(state)
    batch = test.rows.slice(0, 200)
    torch.testing.assert_close(model(batch), wide.eval()(batch), atol=1e-5, rtol=0)
    assert not torch.allclose(model(batch), base(batch), atol=1e-2)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model.extractor=hein"], r"model\.extractor must be .*model\.injection=widen or logit"),
        (["model.kser.align=false"], r"'kser' with model\.kser\.align"),
        (["model.injection=widen", "model.backbone=fignn"], "fignn has no MLP .*one of din, dien,"),
        (["model.injection=widen", "model.mlp_hidden=[]"], r"din has no MLP .*model\.mlp_hidden"),
        (["model.injection=widen", "model.backbone=my:Net"], "my:Net has no MLP"),
        (["model.injection=logit", "model.item_field=true"], r"model\.item_field rules out"),
    ],
)
def test_what_cannot_be_injected_is_refused(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config(None, ["training.strategies=[extractor_only]", *overrides])
    assert load_config(None, overrides)


@pytest.mark.parametrize("words", ["widen model.extractor=hein", "logit model.backbone=fignn"])
def test_what_can_be_injected_is_accepted(words: str) -> None:
    overrides = f"training.strategies=[extractor_only] model.injection={words}"
    assert load_config(None, overrides.split()).model.injection in words
