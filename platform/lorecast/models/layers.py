"""Layers that backbones and extractors share. Weights start Xavier-normal, biases at zero."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


def linear(inputs: int, outputs: int, *, bias: bool = True) -> nn.Linear:
    """A Linear with the house's start values."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.xavier_normal_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def zero_linear(inputs: int, outputs: int, *, bias: bool = True) -> nn.Linear:
    """A Linear that starts at zero, so that what it adds starts as nothing."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.zeros_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def linear_of_parts(layer: nn.Linear, parts: Sequence[Tensor]) -> Tensor:
    """What the layer makes of its input's parts in a row; a part may be one row for all others."""
    if len(parts) == 1:
        x_BH: Tensor = layer(parts[0])
        return x_BH
    weights = torch.split(layer.weight, [part.shape[1] for part in parts], dim=1)
    x_BH = F.linear(parts[0], weights[0], layer.bias)
    for part, weight in zip(parts[1:], weights[1:], strict=True):
        x_BH = x_BH + F.linear(part, weight)
    return x_BH


class Layers(nn.Sequential):
    """Layers in a row. `beside_BH` joins what the first one gives, before its activation: as if it
    had more inputs, and this were their part of its sums."""

    def forward(self, x_BK: Tensor, beside_BH: Tensor | None = None) -> Tensor:
        """What the last layer gives."""
        x_BH = x_BK
        for place, layer in enumerate(self):
            x_BH = layer(x_BH)
            if place == 0 and beside_BH is not None:
                x_BH = x_BH + beside_BH
        return x_BH


def mlp(inputs: int, hidden: Sequence[int], dropout: float) -> Layers:
    """Linear, ReLU and dropout for each hidden width, then one logit."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [linear(inputs, width), nn.ReLU(), nn.Dropout(dropout)]
        inputs = width
    return Layers(*layers, linear(inputs, 1))


def tower(inputs: int, hidden: Sequence[int], dropout: float) -> Layers:
    """`mlp` without its last layer: as wide as the last of `hidden`."""
    return Layers(*list(mlp(inputs, hidden, dropout))[:-1])


class Dice(nn.Module):
    """Activation of DIN: between x and αx, by how x lies among its batch; α starts at 0.

    Statistics are the batch's in training and running ones otherwise, so that a score does not
    depend on the batch it is computed in. Rows are samples or steps; leave padding out.
    """

    mean: Tensor
    var: Tensor

    def __init__(self, width: int, momentum: float = 0.1) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(width))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("var", torch.ones(width))
        self._momentum = momentum

    def forward(self, x_RH: Tensor) -> Tensor:
        """The activated rows, same shape."""
        x_RH = x_RH.float()  # statistics want full precision, wherever the rows come from
        by_batch = self.training and len(x_RH) > 1
        z_RH = F.batch_norm(x_RH, self.mean, self.var, training=by_batch, momentum=self._momentum)
        return x_RH * torch.lerp(self.alpha, torch.ones_like(self.alpha), torch.sigmoid(z_RH))
