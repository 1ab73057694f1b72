"""The system, its baselines and ablations as switches of one code. Free of torch.

Source: papers' baselines MF, TALLRec (text), CoLLM, and the ablations of SeLLa-Rec.
"""

from dataclasses import dataclass, replace
from typing import Final

from lorecast.config.sella import Method


@dataclass(frozen=True, kw_only=True)
class Switches:
    """What a method is made of."""

    language_model: bool = True
    id_tokens: bool = True
    """<User_ID> and <Item_ID>."""
    warm_token: bool = True
    """<Warm_ID>, from the item's semantic vector."""
    aligned: bool = True
    """Items of the collaborative model are drawn to their semantic vectors."""
    warm_start: bool = True
    """The projection begins as alignment left it."""
    one_stage: bool = False
    """Adapters and projection are trained together, from the base model."""

    @property
    def has_tokens(self) -> bool:
        return self.id_tokens or self.warm_token


_SELLA: Final = Switches()
_MF: Final = Switches(
    language_model=False, id_tokens=False, warm_token=False, aligned=False, warm_start=False
)
_METHODS: Final[dict[Method, Switches]] = {
    "mf": _MF,
    "text": replace(_MF, language_model=True),
    "collm": replace(_MF, language_model=True, id_tokens=True),
    "sella": _SELLA,
    "no_alignment": replace(_SELLA, aligned=False, warm_start=False),
    "no_warm_start": replace(_SELLA, warm_start=False),
    "no_warm_token": replace(_SELLA, warm_token=False),
    "no_id_tokens": replace(_SELLA, id_tokens=False),
    "one_stage": replace(_SELLA, one_stage=True),
}
_ABOUT: Final[dict[Method, str]] = {
    "mf": "collaborative model alone",
    "text": "language model alone (TALLRec)",
    "collm": "user and item tokens, projection from scratch (CoLLM)",
    "sella": "aligned user and item tokens, item's meaning (SeLLa-Rec)",
    "no_alignment": "SeLLa-Rec without alignment",
    "no_warm_start": "SeLLa-Rec, projection from scratch",
    "no_warm_token": "SeLLa-Rec without <Warm_ID>",
    "no_id_tokens": "SeLLa-Rec without <User_ID> and <Item_ID>",
    "one_stage": "SeLLa-Rec in one stage",
}


def switches(method: Method) -> Switches:
    """What the method is made of."""
    return _METHODS[method]


def about(method: Method) -> str:
    """The method in a few words, for people."""
    return _ABOUT[method]
