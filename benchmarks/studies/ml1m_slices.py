"""Whom knowledge helps: slices of the test part by what is known of film and user."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from lorecast.artifacts import Artifact
from lorecast.data.batches import Samples, load_samples
from lorecast.data.dataset import Dataset
from lorecast.evaluation.comparison import Scored, measure_slice
from lorecast.evaluation.results import Gain, SliceResult
from lorecast.evaluation.slices import Slice, slices, training_counts

ALL = "all"
COLD = "items: cold (not in training)"
WARM = "items: warm"
COUNTED = (
    COLD,
    "items: 1–5 training samples",
    "items: 6–20 training samples",
    "items: over 20 training samples",
)
_FAMILIES = ("items", "item popularity")
_EARLIER = (0, 20, 50, 100)
"""Bounds of the slices by the user's earlier ratings."""


@dataclass(frozen=True)
class Part:
    """A slice: the base's test AUC, what others gain on it. Empty where there is too little."""

    rows: int
    base_auc: float | None
    gains: Mapping[str, Gain]

    @classmethod
    def of(cls, result: SliceResult) -> "Part":
        """AUC alone; the first arm is the base."""
        if not result.measured:
            return cls(result.rows, None, {})
        gains = {arm.arm: arm.gains["auc"] for arm in result.measured if "auc" in arm.gains}
        return cls(result.rows, result.measured[0].figures["auc"].value, gains)

    def record(self) -> dict[str, Any]:
        """Plain values."""
        gains = {arm: gain.model_dump() for arm, gain in self.gains.items()}
        return {"rows": self.rows, "base_auc": self.base_auc, "gains": gains}


def measured(
    dataset: Dataset, arms: Mapping[str, Sequence[Artifact]], resamples: int
) -> dict[str, Part]:
    """Every slice by name; of `arms` the first is the base."""
    test = load_samples(dataset, "test")
    scored = Scored(
        user_B=test.user_row_B,
        label_B=test.label_B,
        arms={
            name: {model.facts["seed"]: _scores(model, test) for model in models}
            for name, models in arms.items()
        },
    )
    found = [
        Slice("", ALL, np.ones(len(test), np.bool_)),
        *(s for s in slices(test, training_counts(dataset), {}) if s.family in _FAMILIES),
        *_by_earlier(test),
    ]
    return {
        f"{part.family}: {part.name}" if part.family else part.name: Part.of(
            measure_slice(scored, part, resamples)
        )
        for part in found
    }


def _by_earlier(test: Samples) -> list[Slice]:
    bounds = [*_EARLIER, np.inf]
    return [
        Slice(
            "user's earlier ratings",
            f"{low}–{high - 1}" if high < np.inf else f"{low} and more",
            (test.position_B >= low) & (test.position_B < high),
        )
        for low, high in pairwise(bounds)
    ]


def _scores(model: Artifact, test: Samples) -> np.ndarray:
    table = pq.read_table(model.path / "scores.parquet")
    assert np.array_equal(table["item_row"].to_numpy(), test.item_row_B)
    scores: np.ndarray = table["score"].to_numpy()
    return scores
