"""A picture of a search: how its trials went, and each value against what came of it."""

import json
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from lorecast.config import Space
from lorecast.drawing import COLOURS, FAINT, INK, figure
from lorecast.training.search import Trial, best_of, show

_COLUMNS = 3
_LOWEST = 0.4
"""Quantile of the trials' AUC below which points lie at the lower edge: a hopeless setting would
otherwise leave no room for the differences that matter."""


def draw(trials: Sequence[Trial], spaces: Sequence[Space], path: Path, title: str) -> None:
    """Validation AUC by epoch, by trial, and against each of the values; the best is marked."""
    tried = [trial for trial in trials if trial.valid_auc]
    best = best_of(tried)
    assert best is not None, "a search without a result has no picture"
    rows = -(-(2 + len(spaces)) // _COLUMNS)
    with figure(path, title, width=11.0, height=0.4 + 3.1 * rows, rows=rows, columns=_COLUMNS) as (
        drawn,
        grid,
    ):
        places = list(grid.flat)
        limits = _limits(tried)
        _epochs(places[0], tried, best)
        _order(places[1], tried, best)
        for axes, space in zip(places[2:], spaces, strict=False):
            _against(axes, space, tried, best)
        for axes in places[: 2 + len(spaces)]:
            axes.set_ylim(*limits)
            axes.grid(axis="y")
        for axes in grid[:, 0]:
            axes.set_ylabel("validation AUC")
        for axes in places[2 + len(spaces) :]:
            axes.set_axis_off()
        handles, labels = places[1].get_legend_handles_labels()
        drawn.legend(handles, labels, loc="outside upper right", ncols=len(labels))


def _limits(trials: Sequence[Trial]) -> tuple[float, float]:
    best_T = np.array([trial.best_auc for trial in trials])
    high, low = best_T.max(), np.quantile(best_T, _LOWEST)
    spread = max(high - low, 1e-3)
    return max(best_T.min(), low - spread) - 0.08 * spread, high + 0.15 * spread


def _epochs(axes: Any, trials: Sequence[Trial], best: Trial) -> None:
    for trial in sorted(trials, key=lambda t: t is best):
        epochs = range(1, len(trial.valid_auc) + 1)
        colour, width = (COLOURS[1], 2.0) if trial is best else (FAINT, 1.0)
        if trial.ending == "finished" and trial is not best:
            colour = COLOURS[0]
        axes.plot(epochs, trial.valid_auc, "-", color=colour, lw=width)
        axes.plot(epochs[-1], trial.valid_auc[-1], "o", color=colour, ms=3)
    axes.set_title("by epoch")
    axes.set_xlabel("epoch")
    axes.xaxis.get_major_locator().set_params(integer=True)


def _order(axes: Any, trials: Sequence[Trial], best: Trial) -> None:
    trials = sorted(trials, key=lambda t: t.number)
    _points(axes, [trial.number for trial in trials], trials, best)
    numbers = [trial.number for trial in trials]
    so_far = list(accumulate((trial.best_auc for trial in trials), max))
    axes.step(numbers, so_far, where="post", color=INK, lw=0.8, ls=":", label="best so far")
    axes.set_title("by trial")
    axes.set_xlabel("trial")
    axes.xaxis.get_major_locator().set_params(integer=True)


def _against(axes: Any, space: Space, trials: Sequence[Trial], best: Trial) -> None:
    axes.set_title(space.key)
    if space.kind == "choice":
        keys = [json.dumps(value) for value in space.values]
        place_T = [keys.index(json.dumps(trial.values[space.key])) for trial in trials]
        axes.set_xticks(range(len(keys)), [show(value) for value in space.values])
        axes.set_xlim(-0.5, len(keys) - 0.5)
        _points(axes, place_T, trials, best)
        return
    if space.kind == "loguniform":
        axes.set_xscale("log")
    _points(axes, [trial.values[space.key] for trial in trials], trials, best)


def _points(axes: Any, place_T: Sequence[float], trials: Sequence[Trial], best: Trial) -> None:
    """A point a trial, at the lower edge if it lies below."""
    low = _limits(trials)[0]
    points = list(zip(place_T, trials, strict=True))
    for kind, fill in (("finished", COLOURS[0]), ("stopped", "white")):
        chosen = [(x, max(t.best_auc, low)) for x, t in points if t.ending == kind]
        if chosen:
            axes.plot(
                *zip(*chosen, strict=True),
                "o",
                ms=5,
                color=COLOURS[0],
                mfc=fill,
                label=kind,
                clip_on=False,
            )
    (x,) = (x for x, t in points if t is best)
    axes.plot(
        x, best.best_auc, "o", ms=10, mfc="none", mec=COLOURS[1], mew=1.8, label="best", zorder=4
    )
