"""lorecast: recommenders made better by what large language models know.

This package is the pure core: what is computed, free of any cluster. `lorecast.jobs` runs it in
batch on Ray, `lorecast.serve` online.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from lorecast.lifecycle.scorer import Scorer

__version__ = "0.1.0"


def load(bundle: "str | Path", device: str = "cpu") -> "Scorer":
    """The scorer of a bundle's folder, see `lorecast.lifecycle.scorer`."""
    from lorecast.lifecycle.scorer import Scorer

    return Scorer.load(bundle, device)
