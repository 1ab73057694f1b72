"""The training loop of all stages: AdamW, batches of like length, the best check's weights kept.

Validation chooses the check; nobody looks at the test part here. Randomness starts anew at each
step from (seed, rank, step), so on a CPU a training that was cut off resumes bit for bit. Where
torch.distributed is initialised each process takes its share of every batch and of the validation
rows; gradients are those of the whole batch, and rank 0's figures count for all. Only parameters
that learn are kept in checkpoints.
"""

import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lorecast.errors import TrainingError
from lorecast.evaluation.metrics import auc, log_loss, uauc
from lorecast.sella.shares import Workers
from lorecast.training.checkpoints import Checkpoints, Progress

_BUCKET_BATCHES = 16
"""Batches whose rows are sorted by length together."""


class Learner(Protocol):
    """What is trained: a module whose forward takes places of rows and gives their mean loss."""

    divides: bool
    """Whether a batch's loss is the mean of its rows', so that processes may share the batch."""

    def __call__(self, index_B: NDArray[np.int64]) -> Tensor:
        """Mean loss of training rows."""

    def shapes(self) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
        """Where it saves work, groups of training rows that stay together, and rows' lengths, which
        are alike in a batch: [rows] each."""

    def __len__(self) -> int:
        """Training rows."""

    def validate(self) -> dict[str, float]:
        """Figures of the validation part, `auc` among them; all processes call it."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast."""

    epochs: int
    checks: int
    """Validations a pass."""
    batch_size: int
    learning_rate: float
    weight_decay: float
    warmup: float = 0.0
    decays: bool = True
    """Cosine to 0 at the end; else the rate stays."""
    patience: int | None = None
    """Checks without a better validation AUC; none: all passes."""
    clip: float | None = 1.0
    """Most Euclidean length of the gradient."""
    coupled: bool = False
    """Adam with L2 instead of AdamW."""
    micro_batch: int = 1 << 30
    """Rows at once."""

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step, from 0."""
        warm = math.ceil(self.warmup * steps)
        if step < warm:
            return self.learning_rate * (step + 1) / (warm + 1)
        if not self.decays:
            return self.learning_rate
        done = (step - warm) / max(1, steps - warm)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How training went; the module holds the best check's weights."""

    checks: tuple[Mapping[str, Any], ...]
    """Of each: check, step, train_loss, train_s, rows_per_second, and validation's figures."""
    best: int
    """From 1."""

    @property
    def valid(self) -> dict[str, float]:
        """The best check's figures."""
        best = self.checks[self.best - 1]
        return {name: best[name] for name in ("auc", "uauc", "log_loss")}

    @property
    def rows_per_second(self) -> float:
        """Training alone, all processes together."""
        rows = sum(check["rows_per_second"] * check["train_s"] for check in self.checks)
        return float(rows / max(1e-9, sum(check["train_s"] for check in self.checks)))


def figures(user: ArrayLike, label: ArrayLike, probability: ArrayLike) -> dict[str, float]:
    """What a stage records of scored rows."""
    return {
        "auc": auc(label, probability),
        "uauc": uauc(user, label, probability),
        "log_loss": log_loss(label, probability),
    }


def fit(
    learner: Any,
    schedule: Schedule,
    *,
    seed: int,
    checkpoints: Checkpoints | None = None,
    on_rows: Callable[[int], None] = lambda _: None,
    on_check: Callable[[Mapping[str, Any]], None] = lambda _: None,
) -> Fit:
    """Trains a `Learner` that is a module; all processes end with the same weights.

    `checkpoints`: where the training goes on from, and leaves traces of itself. `on_rows` hears
    the rows of a step, of all processes. Raises TrainingError if the loss is no number.
    """
    workers = Workers.current()
    sharing = workers if learner.divides else Workers()
    learned = nn.ParameterList([p for p in learner.parameters() if p.requires_grad])
    kind = torch.optim.Adam if schedule.coupled else torch.optim.AdamW
    optimizer = kind(
        learned, lr=schedule.learning_rate, weight_decay=schedule.weight_decay, fused=True
    )
    found = checkpoints.load(learned, optimizer) if checkpoints else None
    done, best = found or (Progress(), dict[str, Tensor]())
    forward: Any = learner
    if workers.count > 1:  # all begin alike: the same files, the same seed
        forward = DistributedDataParallel(learner, broadcast_buffers=False, init_sync=False)
    batches_an_epoch = max(1, math.ceil(len(learner) / schedule.batch_size))
    steps = schedule.epochs * batches_an_epoch
    checks = min(steps, schedule.epochs * schedule.checks)
    saved_s = time.monotonic()
    batches: tuple[int, list[NDArray[np.int64]]] | None = None

    def is_over() -> bool:
        waited = len(done.epochs) - done.best_epoch
        return schedule.patience is not None and waited >= schedule.patience

    while done.epoch <= checks and not is_over():
        first, last = (steps * check // checks for check in (done.epoch - 1, done.epoch))
        learner.train()
        for step in range(first + done.step, last):
            started_s = time.monotonic()
            epoch, place = divmod(step, batches_an_epoch)
            if batches is None or batches[0] != epoch:
                batches = epoch, _batches(learner, schedule.batch_size, _mixed(seed, epoch))
            batch = batches[1][place]
            torch.manual_seed(_mixed(seed, workers.rank, step))
            for group in optimizer.param_groups:
                group["lr"] = schedule.rate(step, steps)
            loss = _step(forward, batch, sharing, schedule, optimizer, learned)
            done.loss_sum += workers.mean(loss)
            done.step += 1
            done.train_s += time.monotonic() - started_s
            on_rows(len(batch))
            if checkpoints and time.monotonic() - saved_s >= checkpoints.every_s:
                if workers.rank == 0:
                    checkpoints.save(done, learned, best, optimizer)
                saved_s = time.monotonic()
        loss = done.loss_sum / max(1, last - first)
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss} at step {last}: lower the stage's learning_rate "
                f"(now {schedule.learning_rate:g})"
            )
        learner.eval()
        check = {
            "check": done.epoch,
            "step": last,
            "train_loss": loss,
            "train_s": done.train_s,
            "rows_per_second": (last - first) * schedule.batch_size / max(done.train_s, 1e-9),
            **workers.agreed(learner.validate()),
        }
        if not done.best_epoch or check["auc"] > done.epochs[done.best_epoch - 1]["auc"]:
            done.best_epoch = done.epoch
            best = {name: value.clone() for name, value in learned.state_dict().items()}
        done.epochs.append(check)
        on_check(check)
        done.epoch, done.step, done.loss_sum, done.train_s = done.epoch + 1, 0, 0.0, 0.0
    if best:
        learned.load_state_dict(best)
    learner.eval()
    return Fit(checks=tuple(done.epochs), best=done.best_epoch)


def _step(
    forward: Any,
    batch: NDArray[np.int64],
    sharing: Workers,
    schedule: Schedule,
    optimizer: torch.optim.Optimizer,
    learned: nn.ParameterList,
) -> float:
    """One step on this process's share of a batch; the mean of the processes' answers is the loss.

    DDP averages gradients over processes, so a share weighs as many rows as it has times their
    number. All run the model equally often, on a row that weighs nothing where there is none left.
    """
    optimizer.zero_grad()
    total = 0.0
    most = math.ceil(len(batch) / sharing.count)
    parts = np.array_split(sharing.share(batch), math.ceil(most / schedule.micro_batch))
    for number, part in enumerate(parts, start=1):
        waits = isinstance(forward, DistributedDataParallel) and number < len(parts)
        with forward.no_sync() if waits else nullcontext():
            rows = part if len(part) else batch[:1]
            loss = forward(rows) * (len(part) * sharing.count / len(batch))
            loss.backward()
        total += float(loss.detach())
    if schedule.clip is not None:
        torch.nn.utils.clip_grad_norm_(learned, schedule.clip)
    optimizer.step()
    return total


def _batches(learner: Any, batch_size: int, seed: int) -> list[NDArray[np.int64]]:
    """All rows in batches, drawn anew: groups together, like lengths together."""
    rng = np.random.default_rng(seed)
    shapes = learner.shapes()
    if shapes is None:
        order = rng.permutation(len(learner))
        return np.split(order, range(batch_size, len(order), batch_size))
    group_B, length_B = shapes
    order = np.argsort(rng.permutation(group_B.max() + 1)[group_B], kind="stable")
    batches = []
    bucket_size = batch_size * _BUCKET_BATCHES
    for bucket in np.split(order, range(bucket_size, len(order), bucket_size)):
        bucket = bucket[np.argsort(length_B[bucket], kind="stable")]
        batches += np.split(bucket, range(batch_size, len(bucket), batch_size))
    return [batches[place] for place in rng.permutation(len(batches))]


def _mixed(*numbers: int) -> int:
    """A seed that differs wherever one of the numbers does."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
