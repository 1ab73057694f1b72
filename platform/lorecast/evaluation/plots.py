"""Pictures of an evaluation: reliability, slices, and gains over the reference."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from lorecast.drawing import COLOURS, FAINT, INK, figure
from lorecast.evaluation.results import ArmResult, Evaluation, SliceResult
from lorecast.evaluation.tables import metric_name

_ERRORS: Final = ("log_loss", "ece")
"""Metrics of which less is better."""
_SPREAD: Final = 0.56
"""Part of a line's height that the arms share."""


def draw(evaluation: Evaluation, folder: Path) -> list[str]:
    """Draws what there is to see; returns the names of the files."""
    reliability(evaluation, folder / "reliability.png")
    drawn = ["reliability.png"]
    if len(evaluation.arms) > 1:
        gains(evaluation, folder / "gains.png")
        drawn.append("gains.png")
    slices(evaluation, folder / "slices.png")
    return [*drawn, "slices.png"]


def reliability(evaluation: Evaluation, path: Path) -> None:
    """Share of clicks against the predicted probability, by bins of equal mass."""
    with figure(path, "Do probabilities mean what they say?", width=6.2, height=4.6) as (_, axes):
        curves = [arm.reliability for arm in evaluation.arms]
        values = [v for curve in curves for v in (*curve.predicted, *curve.observed)]
        low, high = min(values), max(values)
        axes.plot([low, high], [low, high], color=INK, lw=0.8, ls=":")
        for arm, curve, colour in zip(evaluation.arms, curves, _colours(evaluation), strict=True):
            ece = arm.measured.figures["ece"].value
            label = arm.name if ece is None else f"{arm.name}: ECE {ece:.4f}"
            axes.plot(
                curve.predicted, curve.observed, "o-", ms=4, lw=1.4, color=colour, label=label
            )
        axes.set_xlabel(f"predicted probability ({evaluation.bins} bins of equal mass)")
        axes.set_ylabel("share of clicks")
        axes.grid()
        axes.legend(loc="best")


def gains(evaluation: Evaluation, path: Path) -> None:
    """Forest plot of every metric's gain: dot and bar over users, ticks over seeds."""
    arms = [arm for arm in evaluation.arms if arm.name != evaluation.reference]
    metrics = list(evaluation.arms[0].measured.figures)
    groups = (
        [metric for metric in metrics if metric not in _ERRORS],
        [metric for metric in metrics if metric in _ERRORS],
    )
    height = 1.5 + len(metrics) * max(0.36, 0.24 * len(arms))
    title = (
        f"{', '.join(arm.name for arm in arms)} against {evaluation.reference}, on the test rows"
    )
    with figure(path, title, width=7.5, height=height, rows=2) as (drawn, grid):
        for axes, group in zip(grid[:, 0], groups, strict=True):
            axes.get_subplotspec().get_gridspec().set_height_ratios([len(g) for g in groups])
            _forest(axes, arms, group, _colours(evaluation)[-len(arms) :])
        grid[0, 0].set_title("ranking: more is better")
        grid[1, 0].set_title("errors: less is better")
        over_seeds = any(arm.measured.gains["auc"].seeds_p is not None for arm in arms)
        ticks = ", ticks: 95 % over seeds" if over_seeds else ""
        grid[1, 0].set_xlabel(f"difference (bar: 95 % over users{ticks})")
        handles, labels = grid[0, 0].get_legend_handles_labels()
        drawn.legend(handles, labels, loc="outside right upper")


def _forest(
    axes: Any, arms: Sequence[ArmResult], metrics: Sequence[str], colours: Sequence[str]
) -> None:
    for number, (arm, colour) in enumerate(zip(arms, colours, strict=True)):
        label: str | None = arm.name
        for line, metric in enumerate(metrics):
            if (gain := arm.measured.gains.get(metric)) is None:
                continue
            y = line + _offset(number, len(arms))
            axes.plot([gain.low, gain.high], [y, y], color=colour, lw=2.4, alpha=0.55)
            axes.plot(gain.value, y, "o", ms=6, color=colour, label=label)
            label = None
            if gain.seeds_half_width is not None:
                seeds = [gain.value - gain.seeds_half_width, gain.value + gain.seeds_half_width]
                axes.plot(seeds, [y, y], "|", ms=9, mew=1.6, color=colour)
    axes.axvline(0, color=INK, lw=0.8, ls=":", zorder=0)
    _lines(axes, [metric_name(metric) for metric in metrics])


def slices(evaluation: Evaluation, path: Path, metric: str = "auc") -> None:
    """The metric of every arm on all rows and on every slice that is large enough and not all."""
    parts = [_all_rows(evaluation)]
    parts += [p for p in evaluation.slices if p.measured and p.rows < evaluation.rows]
    height = 1.4 + len(parts) * max(0.3, 0.17 * len(evaluation.arms))
    title = f"{metric_name(metric)} by part of the test rows"
    with figure(path, title, width=8.5, height=height) as (drawn, axes):
        for number, (arm, colour) in enumerate(
            zip(evaluation.arms, _colours(evaluation), strict=True)
        ):
            label: str | None = arm.name
            for line, part in enumerate(parts):
                found = next(each for each in part.measured if each.arm == arm.name)
                if (value := found.figures[metric]).value is None:
                    continue
                y = line + _offset(number, len(evaluation.arms))
                axes.plot([value.low, value.high], [y, y], color=colour, lw=1.6, alpha=0.55)
                axes.plot(value.value, y, "o", ms=4.5, color=colour, label=label)
                label = None
        for line, (before, part) in enumerate(pairwise(parts)):
            if before.family != part.family:
                axes.axhline(line + 0.5, color=FAINT, lw=0.9)
        _lines(axes, [_slice_name(part) for part in parts])
        axes.set_xlabel(f"{metric_name(metric)} (bar: 95 % over users)")
        drawn.legend(*axes.get_legend_handles_labels(), loc="outside right upper")


def _all_rows(evaluation: Evaluation) -> SliceResult:
    return SliceResult(
        family="all",
        name="all rows",
        rows=evaluation.rows,
        users=evaluation.users,
        clicks=evaluation.clicks,
        measured=tuple(arm.measured for arm in evaluation.arms),
    )


def _slice_name(part: SliceResult) -> str:
    name = part.name if part.family == "all" else f"{part.family}: {part.name}"
    return f"{name}, n = {part.rows:,}"


def _lines(axes: Any, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")


def _offset(number: int, count: int) -> float:
    """Where in its line an arm stands."""
    return _SPREAD * ((number + 0.5) / count - 0.5)


def _colours(evaluation: Evaluation) -> list[str]:
    """A colour an arm; the reference is grey."""
    others = iter(range(len(evaluation.arms)))
    return [
        "#8b98a5" if arm.name == evaluation.reference else COLOURS[next(others) % len(COLOURS)]
        for arm in evaluation.arms
    ]
