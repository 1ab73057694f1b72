"""Trains one click model: AdamW, batches by permutation of tensors in memory, early stop.

The validation AUC chooses the epoch; whoever calls scores the test part once, afterwards. On a CPU
the same model, samples, config and seed give the same figures, cut off and resumed or not. Where
torch.distributed is initialised each process brings its shard, gradients are averaged, and rank 0
measures.

Shapes: B samples.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any, Self, cast

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
from lorecast.training.averaging import RunningMean
from lorecast.training.checkpoints import Checkpoints, Progress
from lorecast.training.metrics import Metrics
from lorecast.training.splits import Labelled

_SCORING_BATCH = 4096
_STEPS_A_REPORT = 20
_STEPS_A_SEGMENT = 500
"""Between two places where randomness starts anew and a checkpoint may be taken."""


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

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The epoch that `dataclasses.asdict` gave."""
        return cls(**{**values, "valid": Metrics(**values["valid"])})


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
    checkpoints: Checkpoints | None = None,
    compiles: bool = False,
    on_rows: Callable[[int], None] = lambda _: None,
    on_epoch: Callable[[Epoch], None] = lambda _: None,
) -> Fit:
    """Trains until validation AUC has not risen for `config.patience` epochs.

    `keeps_start`: the model as it comes is a candidate, too, so that it cannot get worse.
    `checkpoints`: where the training goes on from, and leaves traces of itself. `compiles`: its
    steps run through torch.compile.
    `on_rows` hears how many rows this process has trained since its last call; `on_epoch` is
    called on rank 0, which alone knows the epochs. Raises TrainingError if the loss is no number.
    """
    workers = _Workers.current()
    batch_size = max(1, config.batch_size // workers.count)
    steps = workers.fewest(math.ceil(len(train) / batch_size))
    optimizer = torch.optim.AdamW(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        fused=True,
    )
    average = RunningMean(model, config.averaging) if config.averaging else None
    found = checkpoints.load(model, optimizer, average) if checkpoints else None
    done, best_state = found or (Progress(), dict[str, Tensor]())
    epochs = [Epoch.from_dict(epoch) for epoch in done.epochs]
    forward = workers.share(_in_training(model, config.precision, compiles))
    if keeps_start and done.start is None and workers.rank == 0:
        done.start = asdict(valid.metrics(predict(model, valid.rows)))
        best_state = _copy(model)
    start = Metrics(**done.start) if done.start else None
    first_auc = start.auc if start else -math.inf
    saved_s = time.monotonic()

    def keep(progress: Progress) -> None:
        nonlocal saved_s
        if checkpoints and workers.rank == 0:
            if time.monotonic() - saved_s < checkpoints.every_s:
                return
            checkpoints.save(progress, model, best_state, optimizer, average)
            saved_s = time.monotonic()

    def is_over() -> bool:
        ended = len(epochs) - done.best_epoch >= config.patience
        return workers.any(ended and workers.rank == 0)

    while done.epoch <= config.epochs and not is_over():
        order = torch.randperm(
            len(train),
            generator=torch.Generator().manual_seed(_mixed(seed, workers.rank, done.epoch)),
        )
        batches = torch.split(order, batch_size)[:steps]
        _train_epoch(
            forward, train, batches, optimizer, average, done, (seed, workers.rank), on_rows, keep
        )
        loss = done.loss_sum / len(batches)
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss} in epoch {done.epoch}: lower training.learning_rate "
                f"(now {config.learning_rate:g})"
            )
        if workers.rank == 0:
            with average.applied() if average else nullcontext():
                epoch = Epoch(
                    epoch=done.epoch,
                    train_loss=loss,
                    valid=valid.metrics(predict(model, valid.rows)),
                    train_s=done.train_s,
                    rows_per_second=workers.count * sum(map(len, batches)) / done.train_s,
                )
                best_auc = epochs[done.best_epoch - 1].valid.auc if done.best_epoch else first_auc
                epochs.append(epoch)
                on_epoch(epoch)
                if epoch.valid.auc > best_auc:
                    done.best_epoch, best_state = done.epoch, _copy(model)
        done.epochs = [asdict(epoch) for epoch in epochs]
        done.epoch, done.step, done.loss_sum, done.train_s = done.epoch + 1, 0, 0.0, 0.0
        keep(done)
    if best_state:
        model.load_state_dict(best_state)
    return Fit(epochs=tuple(epochs), best_epoch=done.best_epoch, start=start)


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
    sums = []
    with torch.inference_mode():
        for start in range(0, len(rows), _SCORING_BATCH):
            gate_BC, mask_BC = model.gates(rows.slice(start, start + _SCORING_BATCH))
            sums.append(torch.stack([gate_BC.double().sum(0), mask_BC.double().sum(0)]))
    total_C, count_C = torch.stack(sums).sum(0)
    mean_C: NDArray[np.float64] = (total_C / count_C).cpu().numpy()
    return mean_C


def _train_epoch(
    forward: nn.Module,
    train: Labelled,
    batches: Sequence[Tensor],
    optimizer: torch.optim.Optimizer,
    average: RunningMean | None,
    done: Progress,
    origin: tuple[int, int],
    on_rows: Callable[[int], None],
    keep: Callable[[Progress], None],
) -> None:
    """Trains on the batches that `done` lacks, and notes there what it has done."""
    forward.train()
    device = train.label_B.device
    started_s = time.monotonic() - done.train_s
    total = torch.tensor(done.loss_sum, dtype=torch.float64, device=device)
    unreported = 0
    for step, index_B in enumerate(batches[done.step :], done.step):
        if step % _STEPS_A_SEGMENT == 0:
            if step > done.step:
                done.step, done.loss_sum = step, float(total)
                done.train_s = time.monotonic() - started_s
                keep(done)
            torch.manual_seed(_mixed(*origin, done.epoch, step))
        index_B = index_B.to(device)
        logit_B = forward(train.rows.take(index_B))
        loss = F.binary_cross_entropy_with_logits(logit_B, train.label_B.index_select(0, index_B))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if average:
            average.update()
        total += loss.detach()
        unreported += len(index_B)
        if (step + 1) % _STEPS_A_REPORT == 0 or step + 1 == len(batches):
            on_rows(unreported)
            unreported = 0
    done.loss_sum, done.train_s = float(total), time.monotonic() - started_s


def _mixed(*numbers: int) -> int:
    """A seed that differs wherever one of the numbers does."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


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


def _in_training(model: nn.Module, precision: str, compiles: bool) -> nn.Module:
    """The model as its steps run it; weights and buffers are its own."""
    if precision == "bfloat16":
        model = _Autocast(model)
    if compiles:
        # Sizes that follow the distinct users and items of a batch differ from step to step.
        model = cast(nn.Module, torch.compile(model, dynamic=True))
    return model


class _Autocast(nn.Module):
    """A model whose products run in bfloat16; weights and logits stay float32."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> Tensor:
        """logit_B."""
        with torch.autocast(batch.item_row_B.device.type, torch.bfloat16):
            logit_B: Tensor = self.model(batch)
        return logit_B.float()
