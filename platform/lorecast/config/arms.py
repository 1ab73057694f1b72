"""Experiments on users: models that answer some of them, or score beside the one that answers."""

import math
from collections.abc import Mapping
from typing import Annotated, Final, Self

from pydantic import Field, model_validator

from lorecast.config.section import Fraction, Section

MAIN_ARM: Final = "main"
"""The arm of the model that is served anyway."""
ArmName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class ArmConfig(Section):
    """A model beside the main one, which answers a share of the users or shadows requests."""

    model: str = Field(description="models:/NAME@ALIAS, which is followed, or models:/NAME/NUMBER")
    share: Fraction | None = Field(
        None, description="share of the users whom it answers; a user stays with an arm"
    )
    shadow: Fraction | None = Field(
        None,
        description="share of the main model's requests that it scores, too, after their answer; "
        "its scores are compared and never answered",
    )

    @model_validator(mode="after")
    def _answers_or_shadows(self) -> Self:
        if (self.share is None) == (self.shadow is None):
            raise ValueError("an arm has either a share of the users or a shadow of the requests")
        return self


def check_arms(arms: Mapping[str, ArmConfig]) -> None:
    """Raises ValueError if the arms leave the main model without a name or a share of its own."""
    if MAIN_ARM in arms:
        raise ValueError(
            f"serving.arms.{MAIN_ARM} is the name of the model that is served anyway: choose "
            "another"
        )
    taken = math.fsum(arm.share or 0.0 for arm in arms.values())
    if taken > 1:
        raise ValueError(f"serving.arms: the shares add up to {taken:g}; leave them at most 1")
