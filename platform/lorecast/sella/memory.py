"""Language models that outgrow a device: less is kept of each layer.

Gradient checkpointing: a layer remembers its input alone and is run again when its gradient is
wanted: a third more work, and the memory of one layer's activations at a time. The libraries' own
form refuses a cache, which a second run would extend twice; here every run begins with the cache
as the first one found it.

Sharding (FSDP): a process keeps its part of each layer's frozen weights, and has a layer's own
whole while it runs.
"""

from collections.abc import Callable, Sequence
from copy import copy
from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.utils.checkpoint import checkpoint

from lorecast.errors import TrainingError


def recompute_layers(decoder: nn.Module) -> None:
    """From now on layers are run again for their gradients, which stay the same. Raises
    TrainingError if the decoder has no layers that can be."""
    for place, layer in enumerate(_layers(decoder, "gradient_checkpointing: false")):
        names = tuple(signature(layer.forward).parameters)[1:]
        setattr(layer, "forward", partial(_forward, layer.forward, names, place))  # noqa: B010


def shard_layers(decoder: nn.Module) -> None:
    """Divides what is frozen of the layers among all processes; what learns stays whole. Raises
    TrainingError if the decoder has no layers that can be."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    kind = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    mesh = init_device_mesh(kind, (distributed.get_world_size(),))
    learned = {parameter for parameter in decoder.parameters() if parameter.requires_grad}
    outside = set(decoder.parameters())
    for layer in _layers(decoder, "sharding: ddp"):
        outside -= set(layer.parameters())
        fully_shard(layer, mesh=mesh, ignored_params=learned, reshard_after_forward=True)
    fully_shard(decoder, mesh=mesh, ignored_params=learned | outside)


def _layers(decoder: nn.Module, instead: str) -> list[nn.Module]:
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers: list[nn.Module] = [
        m for m in decoder.modules() if isinstance(m, GradientCheckpointingLayer)
    ]
    if not layers:
        raise TrainingError(
            f"{type(decoder).__name__} has no decoder layers that are known as such; set "
            f"sella.{instead}"
        )
    return layers


def _forward(
    forward: Callable[..., Any],
    names: Sequence[str],
    place: int,
    hidden: Tensor,
    *args: Any,
    **inputs: Any,
) -> Any:
    """What `forward` gives. `names`: of its arguments after the first; `place`: its own in a
    cache."""
    from transformers import Cache

    inputs |= dict(zip(names, args, strict=False))
    if not torch.is_grad_enabled():
        return forward(hidden, **inputs)
    key = next((name for name, value in inputs.items() if isinstance(value, Cache)), None)
    if key is None:
        return checkpoint(partial(forward, **inputs), hidden, use_reentrant=False)
    cache = inputs.pop(key)
    before = [copy(layer) for layer in cache.layers[place : place + 1]]

    def resumed(hidden: Tensor) -> Any:
        own = copy(cache)
        own.layers = [*cache.layers[:place], *map(copy, before)]
        result = forward(hidden, **inputs, **{key: own})
        cache.layers[place : place + 1] = own.layers[place:]
        return result

    return checkpoint(resumed, hidden, use_reentrant=False)
