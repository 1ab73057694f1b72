"""Trains one click model: AdamW, batches by permutation of tensors in memory, early stop.

The validation AUC chooses the epoch; whoever calls scores the test part once, afterwards. On a CPU
the same model, samples, config and seed give the same figures. Where torch.distributed is
initialised each process brings its shard, gradients are averaged, and rank 0 measures.

Shapes: B samples.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.parallel import DistributedDataParallel

from lorecast.config import TrainingConfig
from lorecast.errors import TrainingError
from lorecast.models.click_model import ClickModel
from lorecast.models.inputs import Batch
from lorecast.training.metrics import Metrics
from lorecast.training.splits import Labelled

_SCORING_BATCH = 4096
_STEPS_A_REPORT = 20


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One pass over the training samples."""

    epoch: int
    """From 1."""
    train_loss: float
    valid: Metrics
    train_s: float
    rows_per_second: float
    """Training alone, all processes together."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How training went; the model holds the best epoch's weights."""

    epochs: tuple[Epoch, ...]
    best_epoch: int
    """0: no epoch was better than the start."""
    start: Metrics | None = None
    """Of validation before the first step, where the start is a candidate."""

    @property
    def valid(self) -> Metrics:
        """The best epoch's figures."""
        if self.best_epoch == 0:
            assert self.start is not None
            return self.start
        return self.epochs[self.best_epoch - 1].valid

    @property
    def rows_per_second(self) -> float:
        """Over all epochs, training alone."""
        rows = sum(epoch.rows_per_second * epoch.train_s for epoch in self.epochs)
        return rows / sum(epoch.train_s for epoch in self.epochs)


def fit(
    model: ClickModel,
    train: Labelled,
    valid: Labelled,
    config: TrainingConfig,
    *,
    seed: int,
    keeps_start: bool = False,
    on_rows: Callable[[int], None] = lambda _: None,
    on_epoch: Callable[[Epoch], None] = lambda _: None,
) -> Fit:
    """Trains until validation AUC has not risen for `config.patience` epochs.

    `keeps_start`: the model as it comes is a candidate, too, so that it cannot get worse.
    `on_rows` hears how many rows this process has trained since its last call; `on_epoch` is
    called on rank 0, which alone knows the epochs. Raises TrainingError if the loss is no number.
    """
    workers = _Workers.current()
    batch_size = max(1, config.batch_size // workers.count)
    steps = workers.fewest(math.ceil(len(train) / batch_size))
    torch.manual_seed(seed + workers.rank)
    shuffle = torch.Generator().manual_seed(seed + workers.rank)
    forward = workers.share(model)
    optimizer = torch.optim.AdamW(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        fused=True,
    )
    epochs: list[Epoch] = []
    best_epoch, best_auc, best_state = 0, -math.inf, dict[str, Tensor]()
    start = None
    if keeps_start and workers.rank == 0:
        start = valid.metrics(predict(model, valid.rows))
        best_auc, best_state = start.auc, _copy(model)
    for number in range(1, config.epochs + 1):
        started_s = time.monotonic()
        order = torch.randperm(len(train), generator=shuffle)
        batches = torch.split(order, batch_size)[:steps]
        loss = _train_epoch(forward, train, batches, optimizer, on_rows)
        train_s = time.monotonic() - started_s
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss} in epoch {number}: lower training.learning_rate "
                f"(now {config.learning_rate:g})"
            )
        if workers.rank == 0:
            valid_figures = valid.metrics(predict(model, valid.rows))
            rows_per_second = workers.count * sum(map(len, batches)) / train_s
            epoch = Epoch(
                epoch=number,
                train_loss=loss,
                valid=valid_figures,
                train_s=train_s,
                rows_per_second=rows_per_second,
            )
            epochs.append(epoch)
            on_epoch(epoch)
            if valid_figures.auc > best_auc:
                best_epoch, best_auc, best_state = number, valid_figures.auc, _copy(model)
        if workers.any(number - best_epoch >= config.patience and workers.rank == 0):
            break
    if best_state:
        model.load_state_dict(best_state)
    return Fit(epochs=tuple(epochs), best_epoch=best_epoch, start=start)


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def predict(model: ClickModel, rows: Batch) -> NDArray[np.float32]:
    """Click probabilities, [B]."""
    model.eval()
    with torch.inference_mode():
        parts = [
            model(rows.slice(start, start + _SCORING_BATCH)).sigmoid()
            for start in range(0, len(rows), _SCORING_BATCH)
        ]
        probability_B: NDArray[np.float32] = torch.cat(parts).cpu().numpy()
    return probability_B


def mean_gates(model: ClickModel, rows: Batch) -> NDArray[np.float64]:
    """ESFNet's mean weight on each chunk, over the samples that have it; NaN if none has, [C]."""
    model.eval()
    with torch.inference_mode():
        parts = [
            model.gates(rows.slice(start, start + _SCORING_BATCH)).double()
            for start in range(0, len(rows), _SCORING_BATCH)
        ]
    total_C = torch.stack([part.sum(0) for part in parts]).sum(0)
    count_C = torch.stack([(part > 0).sum(0) for part in parts]).sum(0)
    mean_C: NDArray[np.float64] = (total_C / count_C).cpu().numpy()
    return mean_C


def _train_epoch(
    forward: nn.Module,
    train: Labelled,
    batches: Sequence[Tensor],
    optimizer: torch.optim.Optimizer,
    on_rows: Callable[[int], None],
) -> float:
    """Mean loss a batch."""
    forward.train()
    total = torch.zeros((), device=train.label_B.device)
    unreported = 0
    for step, index_B in enumerate(batches, 1):
        index_B = index_B.to(total.device)
        logit_B = forward(train.rows.take(index_B))
        loss = F.binary_cross_entropy_with_logits(logit_B, train.label_B.index_select(0, index_B))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total += loss.detach()
        unreported += len(index_B)
        if step % _STEPS_A_REPORT == 0 or step == len(batches):
            on_rows(unreported)
            unreported = 0
    return float(total / len(batches))


@dataclass(frozen=True)
class _Workers:
    """The processes that train together."""

    count: int
    rank: int

    @classmethod
    def current(cls) -> Self:
        if not distributed.is_initialized():
            return cls(1, 0)
        return cls(distributed.get_world_size(), distributed.get_rank())

    def share(self, model: nn.Module) -> nn.Module:
        """The model, averaging its gradients over all."""
        return model if self.count == 1 else DistributedDataParallel(model, broadcast_buffers=False)

    def fewest(self, steps: int) -> int:
        """The least number among all."""
        return self._reduce(steps, distributed.ReduceOp.MIN) if self.count > 1 else steps

    def any(self, condition: bool) -> bool:
        """Whether it holds for one of all."""
        if self.count == 1:
            return condition
        return bool(self._reduce(condition, distributed.ReduceOp.MAX))

    def _reduce(self, number: int, operation: Any) -> int:
        value = torch.tensor(int(number))
        distributed.all_reduce(value, operation)
        return int(value)
