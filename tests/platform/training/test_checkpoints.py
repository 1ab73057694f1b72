"""A training that was cut off ends as it would have."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lorecast.config import ModelConfig, TrainingConfig
from lorecast.models.click_model import ClickModel
from lorecast.training import loop
from lorecast.training.checkpoints import Checkpoints
from lorecast.training.loop import Epoch, Fit, fit
from lorecast.training.splits import Labelled
from tests import planted

CONFIG = TrainingConfig(epochs=4, patience=2, batch_size=64, learning_rate=3e-3)
AVERAGED = CONFIG.model_copy(update={"averaging": 0.9})


class CutOffError(Exception):
    """What ends a training midway."""


def _train(
    checkpoints: Checkpoints | None, cut_after: int | None = None, config: TrainingConfig = CONFIG
) -> tuple[Fit, ClickModel]:
    """A training from its start values, cut off after so many rows."""
    rng = np.random.default_rng(0)
    samples, vectors = planted.world(rng, 3000)
    train, valid, _ = (Labelled.of(part, "train") for part in planted.parts(samples))
    torch.manual_seed(0)
    model = ClickModel(ModelConfig(embedding_dim=8), planted.SCHEMA, planted.SHAPE)
    model.attach(*planted.codes(rng), vectors)
    rows = 0

    def on_rows(count: int) -> None:
        nonlocal rows
        rows += count
        if cut_after is not None and rows >= cut_after:
            raise CutOffError

    done = fit(model, train, valid, config, seed=0, checkpoints=checkpoints, on_rows=on_rows)
    return done, model


def _figures(done: Fit) -> list[Epoch]:
    return [replace(epoch, train_s=0, rows_per_second=0) for epoch in done.epochs]


@pytest.mark.invariant
@pytest.mark.parametrize(
    ("cut_after", "config"), [(1500, CONFIG), (2500, CONFIG), (4500, CONFIG), (2500, AVERAGED)]
)
def test_a_resumed_training_ends_bit_for_bit_where_it_would_have(
    cut_after: int, config: TrainingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_STEPS_A_SEGMENT", 10)
    expected, whole = _train(None, config=config)
    checkpoints = Checkpoints(tmp_path / "one.safetensors", every_s=0)
    with pytest.raises(CutOffError):
        _train(checkpoints, cut_after, config)
    found, resumed = _train(checkpoints, config=config)
    assert _figures(found) == _figures(expected)
    assert found.best_epoch == expected.best_epoch
    assert all(map(torch.equal, whole.state_dict().values(), resumed.state_dict().values()))


def test_what_is_done_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_STEPS_A_SEGMENT", 10)
    checkpoints = Checkpoints(tmp_path / "one.safetensors", every_s=0)
    with pytest.raises(CutOffError):
        _train(checkpoints, 4500)
    with pytest.raises(CutOffError):
        _train(checkpoints, 1)  # one report of 20 steps after it goes on
    assert [path.name for path in tmp_path.iterdir()] == ["one.safetensors"]
    progress = checkpoints.load(*_blank())
    assert progress is not None
    assert progress[0].epoch >= 3


def _blank() -> tuple[ClickModel, torch.optim.Optimizer]:
    model = ClickModel(ModelConfig(embedding_dim=8), planted.SCHEMA, planted.SHAPE)
    return model, torch.optim.AdamW(model.parameters())


def test_checkpoints_are_not_written_more_often_than_asked(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "one.safetensors", every_s=3600)
    _train(checkpoints)
    assert not checkpoints.path.exists()
