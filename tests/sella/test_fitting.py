"""The training loop: it learns, keeps the best, resumes bit for bit, and adds parts up."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from lorecast.errors import TrainingError
from lorecast.sella.fitting import Fit, Schedule, fit
from lorecast.training.checkpoints import Checkpoints


class _Line(nn.Module):
    """Logistic regression on planted rows, with dropout so that randomness matters."""

    divides = True

    def __init__(self, *, dropout: float = 0.2, grouped: bool = True) -> None:
        super().__init__()
        rng = np.random.default_rng(0)
        self._x = torch.from_numpy(rng.normal(size=(300, 4)).astype(np.float32))
        self._y = (self._x[:, 0] > 0).float()
        torch.manual_seed(0)
        self.linear, self._dropout, self._grouped = nn.Linear(4, 1), dropout, grouped
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)
        self.seen: list[NDArray[np.int64]] = []

    def forward(self, index_B: NDArray[np.int64]) -> Tensor:
        self.seen.append(index_B)
        x = F.dropout(self._x[index_B], self._dropout, self.training)
        return F.binary_cross_entropy_with_logits(self.linear(x)[:, 0], self._y[index_B])

    def shapes(self) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
        return (np.arange(300) // 2, np.arange(300) // 2 % 7) if self._grouped else None

    def __len__(self) -> int:
        return 300

    def validate(self) -> dict[str, float]:
        with torch.no_grad():
            auc = float(((self.linear(self._x)[:, 0] > 0) == (self._y > 0)).float().mean())
        return {"auc": auc, "uauc": auc, "log_loss": 1 - auc}


def _schedule(**changes: object) -> Schedule:
    values: dict[str, object] = {
        "epochs": 2,
        "checks": 3,
        "batch_size": 32,
        "learning_rate": 0.2,
        "weight_decay": 0.01,
    }
    return Schedule(**{**values, **changes})  # type: ignore[arg-type]


def test_it_learns_and_keeps_the_best_check() -> None:
    learner = _Line()
    trained = fit(learner, _schedule(), seed=0)
    assert len(trained.checks) == 6
    assert trained.valid["auc"] > 0.9
    assert trained.valid["auc"] == max(check["auc"] for check in trained.checks)
    assert learner.validate()["auc"] == trained.valid["auc"]


def test_every_pass_takes_every_row_once_and_groups_stay_together() -> None:
    learner = _Line()
    fit(learner, _schedule(epochs=1), seed=0)
    taken = np.concatenate(learner.seen)
    np.testing.assert_array_equal(np.sort(taken), np.arange(300))
    assert all(len(np.unique(batch // 2)) == len(batch) // 2 for batch in learner.seen)
    assert max(len(np.unique(batch // 2 % 7)) for batch in learner.seen) <= 3, "like lengths"


@pytest.mark.parametrize("cut_off_after", [3, 11])
def test_a_training_that_was_cut_off_resumes_bit_for_bit(
    tmp_path: Path, cut_off_after: int
) -> None:
    whole = _Line()
    expected = fit(whole, _schedule(), seed=4)
    checkpoints = Checkpoints(tmp_path / "state.safetensors", every_s=0.0)
    steps = 0

    def stop(_: int) -> None:
        nonlocal steps
        steps += 1
        if steps > cut_off_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(_Line(), _schedule(), seed=4, checkpoints=checkpoints, on_rows=stop)
    resumed = _Line()
    found = fit(resumed, _schedule(), seed=4, checkpoints=checkpoints)
    assert 0 < len(resumed.seen) < 2 * 10, "it went on, and not from the start"
    assert torch.equal(resumed.linear.weight, whole.linear.weight)
    assert _figures(found) == _figures(expected)


def _figures(trained: Fit) -> list[tuple[float, float]]:
    return [(check["train_loss"], check["auc"]) for check in trained.checks]


def test_micro_batches_add_up_to_the_step() -> None:
    whole, parts = _Line(dropout=0.0), _Line(dropout=0.0)
    fit(whole, _schedule(), seed=0)
    fit(parts, _schedule(micro_batch=7), seed=0)
    torch.testing.assert_close(whole.linear.weight, parts.linear.weight)
    assert max(map(len, parts.seen)) <= 7


def test_patience_ends_a_training() -> None:
    trained = fit(_Line(grouped=False), _schedule(epochs=50, checks=1, patience=2), seed=0)
    assert len(trained.checks) == trained.best + 2


def test_the_rate_rises_and_falls() -> None:
    schedule = _schedule(warmup=0.1)
    rates = [schedule.rate(step, 100) for step in range(100)]
    assert rates[0] < rates[5] < rates[10] == pytest.approx(0.2)
    assert rates[-1] < 1e-3
    assert _schedule(decays=False).rate(99, 100) == 0.2


def test_a_loss_that_is_no_number_is_an_error() -> None:
    learner = _Line()
    nn.init.constant_(learner.linear.weight, float("nan"))
    with pytest.raises(TrainingError, match=r"loss is nan.*learning_rate"):
        fit(learner, _schedule(), seed=0)
