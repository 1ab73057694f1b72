"""Arms side by side: the same test rows scored by models of several kinds, each with its seeds.

Legend: B test samples, R draws.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lorecast.evaluation.calibration import reliability
from lorecast.evaluation.results import Curve, Figure, Gain, Measured, SliceResult
from lorecast.evaluation.slices import Slice
from lorecast.evaluation.uncertainty import (
    difference,
    interval,
    plain,
    redraw,
    seed_test,
    statistics,
)

METRICS = ("auc", "gauc", "uauc", "log_loss", "ece", "ndcg@5", "ndcg@10", "map")
SLICE_METRICS = ("auc", "gauc", "uauc", "log_loss")
_FEWEST_ROWS = 50
_FEWEST_USERS = 10


@dataclass(frozen=True, kw_only=True)
class Scored:
    """The test rows, and what each arm's models make of them; the first arm is the reference."""

    user_B: NDArray[np.integer]
    label_B: NDArray[np.integer]
    arms: Mapping[str, Mapping[int, NDArray[np.floating]]]
    """Probabilities by arm and seed, [B]."""

    def take(self, mask_B: NDArray[np.bool_]) -> "Scored":
        """Some of the rows."""
        return replace(
            self,
            user_B=self.user_B[mask_B],
            label_B=self.label_B[mask_B],
            arms={
                name: {seed: score_B[mask_B] for seed, score_B in seeds.items()}
                for name, seeds in self.arms.items()
            },
        )


def measure(scored: Scored, metrics: Sequence[str], resamples: int) -> tuple[Measured, ...]:
    """Every arm's metrics, and its gains over the reference, under the same draws of users."""
    users, user_B = np.unique(scored.user_B, return_inverse=True)
    models = [(arm, seed) for arm, seeds in scored.arms.items() for seed in seeds]
    found = [
        statistic
        for arm, seed in models
        for statistic in statistics(
            user_B, scored.label_B, scored.arms[arm][seed], metrics
        ).values()
    ]
    places = [(*model, metric) for model in models for metric in metrics]
    value = dict(zip(places, (plain(each, len(users)) for each in found), strict=True))
    redrawn = dict(zip(places, redraw(found, len(users), resamples=resamples), strict=True))
    reference = next(iter(scored.arms))

    def figure(arm: str, metric: str) -> Figure:
        by_seed = {seed: value[arm, seed, metric] for seed in scored.arms[arm]}
        values = list(by_seed.values())
        redrawn_R = np.mean([redrawn[arm, seed, metric] for seed in by_seed], axis=0)
        if np.isnan(values).any():
            known = {seed: None if np.isnan(v) else v for seed, v in by_seed.items()}
            return Figure(value=None, std=None, low=None, high=None, by_seed=known)
        mean, low, high = interval(float(np.mean(values)), redrawn_R)
        std = float(np.std(values, ddof=1)) if len(values) > 1 else None
        return Figure(value=mean, std=std, low=low, high=high, by_seed=by_seed)

    def gain(arm: str, metric: str) -> Gain | None:
        seeds = [seed for seed in scored.arms[arm] if seed in scored.arms[reference]]
        gained = [value[arm, s, metric] - value[reference, s, metric] for s in seeds]
        if not seeds or np.isnan(gained).any():
            return None
        redrawn_R = np.mean(
            [redrawn[arm, s, metric] - redrawn[reference, s, metric] for s in seeds], axis=0
        )
        over_users, over_seeds = difference(float(np.mean(gained)), redrawn_R), seed_test(gained)
        return Gain(
            **over_users._asdict(),
            seeds=len(seeds),
            seeds_half_width=over_seeds.half_width if over_seeds else None,
            seeds_p=over_seeds.p if over_seeds else None,
        )

    return tuple(
        Measured(
            arm=arm,
            figures={metric: figure(arm, metric) for metric in metrics},
            gains={
                metric: gained
                for metric in metrics
                if arm != reference and (gained := gain(arm, metric))
            },
        )
        for arm in scored.arms
    )


def measure_slice(scored: Scored, part: Slice, resamples: int) -> SliceResult:
    """The arms on a slice, unless it has less than 50 rows, 10 users, or only one class."""
    of_part = scored.take(part.mask_B)
    rows, users = len(of_part.label_B), len(np.unique(of_part.user_B))
    clicks = int((of_part.label_B == 1).sum())
    is_enough = rows >= _FEWEST_ROWS and users >= _FEWEST_USERS and 0 < clicks < rows
    return SliceResult(
        family=part.family,
        name=part.name,
        rows=rows,
        users=users,
        clicks=clicks,
        measured=measure(of_part, SLICE_METRICS, resamples) if is_enough else (),
    )


def curve(scored: Scored, arm: str, bins: int) -> Curve:
    """Reliability of an arm, the rows of all its seeds together."""
    scores = list(scored.arms[arm].values())
    found = reliability(np.tile(scored.label_B, len(scores)), np.concatenate(scores), bins)
    return Curve(
        predicted=tuple(found.predicted.tolist()),
        observed=tuple(found.observed.tolist()),
        rows=tuple(found.rows.tolist()),
    )
