"""How `lorecast tune` searches; what it searches stands beside the values, see `spaces`."""

from pydantic import Field

from lorecast.config.section import Positive, Section, Strategy


class SearchConfig(Section):
    """The search of `lorecast tune`."""

    trials: Positive = Field(20, description="settings that are tried")
    grace: Positive = Field(
        4, description="epochs that every trial trains before it may be stopped (ASHA)"
    )
    reduction: int = Field(
        3, ge=2, description="of the trials that get so far, one in so many goes on (ASHA)"
    )
    seed: int = Field(0, description="seed of the settings' choice")
    strategy: Strategy | None = Field(
        None,
        description="what trials train, with the first of training.seeds; default: the last of "
        "training.strategies",
    )
