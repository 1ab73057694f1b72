import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from lorecast.config import ModelConfig, TrainingConfig
from lorecast.errors import TrainingError
from lorecast.models.click_model import ClickModel
from lorecast.models.inputs import Batch
from lorecast.training.loop import Epoch, Fit, fit, mean_gates, predict
from lorecast.training.splits import Labelled
from tests import planted

CONFIG = TrainingConfig(epochs=6, batch_size=256, learning_rate=3e-3)


def _train(
    knowledge: str, config: TrainingConfig = CONFIG, seed: int = 0, *, compiles: bool = False
) -> tuple[Fit, ClickModel, Labelled]:
    rng = np.random.default_rng(0)
    samples, vectors = planted.world(rng, 12_000)
    if knowledge == "shuffled":
        vectors = vectors.shuffled(rng)
    train, valid, test = (
        Labelled.of(part, name)
        for part, name in zip(planted.parts(samples), ("train", "valid", "test"), strict=True)
    )
    torch.manual_seed(seed)
    model = ClickModel(
        ModelConfig(embedding_dim=8), planted.SCHEMA, planted.SHAPE if knowledge != "none" else None
    )
    model.attach(*planted.codes(rng), vectors if knowledge != "none" else None)
    return fit(model, train, valid, config, seed=seed, compiles=compiles), model, test


@pytest.fixture(scope="module")
def true_knowledge() -> tuple[Fit, ClickModel, Labelled]:
    return _train("true")


@pytest.mark.invariant
def test_true_knowledge_helps_shuffled_and_none_do_not(
    true_knowledge: tuple[Fit, ClickModel, Labelled],
) -> None:
    found = {"true": true_knowledge, "shuffled": _train("shuffled"), "none": _train("none")}
    auc = {
        name: test.metrics(predict(model, test.rows)).auc
        for name, (_, model, test) in found.items()
    }
    assert auc["true"] > 0.80  # an oracle has 0.84
    assert abs(auc["shuffled"] - 0.5) < 0.04
    assert abs(auc["none"] - 0.5) < 0.04


def test_gates_prefer_the_chunk_that_tells_something(
    true_knowledge: tuple[Fit, ClickModel, Labelled],
) -> None:
    _, model, test = true_knowledge
    kind, *noise, taste = mean_gates(model, test.rows)
    assert min(kind, taste) > max(noise)


@pytest.mark.parametrize("gate", ["double_sigmoid", "top_k", "sparsemax"])
def test_a_mean_gate_counts_texts_that_are_shut_out_and_no_missing_ones(gate: str) -> None:
    samples, vectors = planted.world(np.random.default_rng(0), 500)
    vectors.masks["item"][::3, 1] = False
    vectors.masks["user"][:] = False
    kser = {"gate": gate, "top_k": 1}
    torch.manual_seed(0)
    model = ClickModel(ModelConfig.model_validate({"kser": kser}), planted.SCHEMA, planted.SHAPE)
    model.attach(*planted.codes(np.random.default_rng(1)), vectors)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    rows = Batch.of(samples)
    with torch.inference_mode():
        gate_BC = model.eval().gates(rows)[0].double().numpy()
    there_BC = np.concatenate(
        [
            vectors.masks[side][row_B]
            for side, row_B in (("item", samples.item_row_B), ("user", samples.user_row_B))
        ],
        axis=1,
    )
    assert (gate_BC[there_BC] == 0).any() == (gate != "double_sigmoid")
    expected = [gate_BC[there_BC[:, chunk], chunk].mean() for chunk in range(3)]
    *found, none = mean_gates(model, rows)
    np.testing.assert_allclose(found, expected, atol=1e-9)
    assert np.isnan(none)


@pytest.mark.invariant
@pytest.mark.parametrize("knowledge", ["none", "true"])
def test_same_seed_same_figures(knowledge: str) -> None:
    short = CONFIG.model_copy(update={"epochs": 2})

    def figures(seed: int) -> list[Epoch]:
        epochs = _train(knowledge, short, seed)[0].epochs
        return [replace(epoch, train_s=0, rows_per_second=0) for epoch in epochs]

    first = figures(0)
    assert figures(0) == first
    assert figures(1) != first


def test_the_best_epoch_is_kept_and_patience_ends_training() -> None:
    config = CONFIG.model_copy(update={"epochs": 40, "patience": 2})
    seen: list[float] = []
    rng = np.random.default_rng(0)
    samples, _ = planted.world(rng, 3000)
    train, valid, _ = (Labelled.of(part, "train") for part in planted.parts(samples))
    torch.manual_seed(0)
    model = ClickModel(ModelConfig(embedding_dim=8), planted.SCHEMA, None)
    model.attach(*planted.codes(rng), None)
    rows: list[int] = []
    done = fit(
        model,
        train,
        valid,
        config,
        seed=0,
        on_rows=rows.append,
        on_epoch=lambda epoch: seen.append(epoch.valid.auc),
    )
    assert done.best_epoch == 1 + int(np.argmax(seen))
    assert len(seen) == done.best_epoch + 2 < 40
    assert valid.metrics(predict(model, valid.rows)).auc == max(seen) == done.valid.auc
    assert sum(rows) == len(train) * len(seen)


@pytest.mark.parametrize("how", ["bfloat16", pytest.param("compiled", marks=pytest.mark.slow)])
def test_other_arithmetic_learns_as_much(
    how: str, true_knowledge: tuple[Fit, ClickModel, Labelled]
) -> None:
    config = CONFIG.model_copy(update={"precision": how} if how == "bfloat16" else {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own imports are deprecated
        found = _train("true", config, compiles=how == "compiled")[0]
    assert found.valid.auc == pytest.approx(true_knowledge[0].valid.auc, abs=0.01)
    assert found.epochs[0].train_loss != true_knowledge[0].epochs[0].train_loss


def test_a_loss_that_is_no_number_is_said() -> None:
    wild = CONFIG.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(TrainingError, match=r"loss is nan.*training\.learning_rate"):
        _train("none", wild)


@pytest.mark.parametrize(
    ("change", "expected"),
    [("empty", "train part has no samples"), ("ones", "every label of the train part is 1")],
)
def test_a_part_that_cannot_teach_is_refused(
    change: str, expected: str, rng: np.random.Generator
) -> None:
    samples, _ = planted.world(rng, 20)
    if change == "empty":
        samples = samples.take(slice(0, 0))
    else:
        samples = replace(samples, label_B=np.ones_like(samples.label_B))
    with pytest.raises(TrainingError, match=expected):
        Labelled.of(samples, "train")
