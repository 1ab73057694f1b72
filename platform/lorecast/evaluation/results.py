"""What an evaluation found, as it stands in evaluation.json. None: no such figure on these rows."""

from pydantic import BaseModel, ConfigDict


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Figure(_Record):
    """A metric of one arm."""

    value: float | None
    """Mean over seeds."""
    std: float | None
    """Over seeds; None for one seed."""
    low: float | None
    high: float | None
    """Ends of the 95 % interval when users are drawn anew."""
    by_seed: dict[int, float | None]


class Gain(_Record):
    """A metric of one arm minus that of the reference, over the seeds that both have."""

    value: float
    low: float
    high: float
    p: float
    """Interval and two-sided p when users are drawn anew."""
    seeds: int
    seeds_half_width: float | None
    seeds_p: float | None
    """Student's t over seeds; None for one seed."""


class Measured(_Record):
    """One arm on some rows."""

    arm: str
    figures: dict[str, Figure]
    """By metric."""
    gains: dict[str, Gain]
    """By metric; empty for the reference."""


class Curve(_Record):
    """Reliability over the rows of all seeds, by bins of equal mass."""

    predicted: tuple[float, ...]
    observed: tuple[float, ...]
    rows: tuple[int, ...]


class ArmResult(_Record):
    """One arm on all rows."""

    name: str
    strategy: str
    model: str
    """Backbone and extractor, for people."""
    measured: Measured
    reliability: Curve


class SliceResult(_Record):
    """All arms on a slice; none measured where it is too small."""

    family: str
    name: str
    rows: int
    users: int
    clicks: int
    measured: tuple[Measured, ...]


class Evaluation(_Record):
    """Arms on the same test rows."""

    name: str
    rows: int
    users: int
    clicks: int
    reference: str
    """The arm that the others are compared with."""
    resamples: int
    bins: int
    arms: tuple[ArmResult, ...]
    slices: tuple[SliceResult, ...]
