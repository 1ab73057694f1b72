"""Backbones of the user's own, named `package.module:Class` in the experiment.

A class of torch modules made of (ModelConfig, FieldCounts) that maps Fields to logit_B; see
docs/models.md.
"""

import inspect

from torch import Tensor, nn

from lorecast.config.own_code import load_class
from lorecast.errors import ConfigError, TrainingError


def own_backbone(name: str) -> type[nn.Module]:
    """The class. Raises ConfigError if there is none, or it cannot be made of what it is given."""
    found = load_class(name)
    if not issubclass(found, nn.Module):
        raise ConfigError(f"{name} is no torch.nn.Module: derive the class from it")
    try:
        inspect.signature(found).bind(None, None)
    except TypeError as error:
        raise ConfigError(
            f"{name} cannot be made of (config, counts): {error}; write "
            "`def __init__(self, config, counts)`"
        ) from None
    return found


def check_logits(backbone: str, logits: object, num_samples: int) -> None:
    """Raises TrainingError unless these are one logit a sample."""
    if not isinstance(logits, Tensor):
        given = f"a {type(logits).__name__}"
    elif logits.shape == (num_samples,):
        return
    else:
        sizes = [str(size) for size in logits.shape]
        if logits.dim() and len(logits) == num_samples:
            sizes[0] = "B"
        given = f"[{', '.join(sizes)}]"
    raise TrainingError(
        f"a backbone must give one logit a sample, [B]; {backbone} gave {given} (B = {num_samples})"
    )
