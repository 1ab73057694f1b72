"""The running mean of a model's weights, steadier than the weights themselves.

After Polyak & Juditsky 1992, in the exponential form: mean ← d·mean + (1 − d)·weights at each step,
with d = min(decay, (1 + t) / (10 + t)) at step t, so that the start is soon forgotten.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class RunningMean:
    """Of what a model learns: trainable weights and, of modules that have any, statistics."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        frozen = {name for name, value in model.named_parameters() if not value.requires_grad}
        self._live = {
            name: value
            for name, value in model.state_dict().items()
            if value.is_floating_point() and name not in frozen
        }
        self._mean = {name: value.clone() for name, value in self._live.items()}
        self._steps = 0

    def update(self) -> None:
        """Takes in the weights after a step."""
        self._steps += 1
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        torch._foreach_lerp_(list(self._mean.values()), list(self._live.values()), 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within it the model has the mean's weights."""
        own = {name: value.clone() for name, value in self._live.items()}
        self._set(self._mean)
        try:
            yield
        finally:
            self._set(own)

    def state(self) -> dict[str, Tensor]:
        """What `restore` takes."""
        return {**self._mean, _STEPS: torch.tensor(self._steps)}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Goes on from what `state` gave."""
        self._steps = int(state[_STEPS])
        for name, value in self._mean.items():
            value.copy_(state[name])

    def _set(self, values: dict[str, Tensor]) -> None:
        for name, value in self._live.items():
            value.copy_(values[name])


_STEPS = "steps taken"
