"""What a training that was cut off needs to go on as if nothing had happened.

One safetensors file, replaced atomically: the model, the weights' running mean, the best epoch's
weights, AdamW's moments, and the figures so far. Whatever is random starts anew from (seed, rank,
step) at every place where a checkpoint may be taken, so on a CPU a training that resumes ends bit
for bit where it would have.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lorecast import remote
from lorecast.training.averaging import RunningMean

_STATE = "state"


@dataclass(kw_only=True)
class Progress:
    """How far a training is."""

    epoch: int = 1
    """The running one, from 1."""
    step: int = 0
    """Steps of it that are done."""
    loss_sum: float = 0.0
    """Over these steps."""
    train_s: float = 0.0
    """Spent on these steps."""
    best_epoch: int = 0
    start: dict[str, float] | None = None
    """Validation before the first step, where the start is a candidate."""
    epochs: list[dict[str, Any]] = field(default_factory=list)
    """The finished ones, as plain values."""


@dataclass(frozen=True)
class Checkpoints:
    """A training's one checkpoint."""

    path: Path
    every_s: float
    """Least time between two, in seconds."""

    def epochs(self) -> list[dict[str, Any]]:
        """The finished epochs in the checkpoint, as plain values; none without one."""
        if not self.path.exists():
            return []
        with safe_open(self.path, framework="pt") as file:
            return Progress(**json.loads(file.metadata()[_STATE])).epochs

    def save(
        self,
        progress: Progress,
        model: nn.Module,
        best: Mapping[str, Tensor],
        optimizer: torch.optim.Optimizer,
        average: RunningMean | None = None,
    ) -> None:
        """Replaces the checkpoint."""
        tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in best.items()}
        if average:
            tensors |= {f"average.{name}": value for name, value in average.state().items()}
        for place, moments in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{place}.{name}": value for name, value in moments.items()}
        tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        written = self.path.with_suffix(f".{os.getpid()}.new")
        save_file(tensors, written, {_STATE: json.dumps(vars(progress))})
        written.replace(self.path)
        remote.upload(self.path)

    def load(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        average: RunningMean | None = None,
    ) -> tuple[Progress, dict[str, Tensor]] | None:
        """Sets model, optimizer and average to the checkpoint, if there is one; returns the
        progress and the best weights."""
        if not remote.fetch(self.path):
            return None
        device = next(model.parameters()).device
        with safe_open(self.path, framework="pt", device=str(device)) as file:
            progress = Progress(**json.loads(file.metadata()[_STATE]))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        parts: dict[str, dict[str, Tensor]] = {
            part: {} for part in ("model", "best", "average", "optimizer")
        }
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        model.load_state_dict(parts["model"])
        if average:
            average.restore(parts["average"])
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in parts["optimizer"].items():
            place, _, moment = name.partition(".")
            moments.setdefault(int(place), {})[moment] = tensor
        optimizer.load_state_dict(optimizer.state_dict() | {"state": moments})
        return progress, parts["best"]
