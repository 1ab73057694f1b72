"""What is trained, and from what. Free of torch: plans are made of it, and travel to workers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lorecast.config import SellaConfig
from lorecast.sella.methods import Switches


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all stages of an experiment share."""

    config: SellaConfig
    positive_rating: float
    source: str
    """Folder or hub name of the language model."""
    digest: str


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One training."""

    kind: Literal["tune", "align", "guide"]
    seed: int
    method: Switches
    """What it is for; `align` reads `aligned` alone."""
    tuned: Path | None = None
    vectors: Path | None = None
    aligned: Path | None = None
    """Folders of inputs."""
