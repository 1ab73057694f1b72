"""Pictures of an audit: lengths, duplicates, redundancy, and truth where it is known."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lorecast.drawing import COLOURS, FAINT, INK, figure
from lorecast.knowledge.audit import Audit, FactorFigures, Redundancy

_NAMED_CELLS: Final = 12
"""A larger matrix shows no numbers."""


def draw(audit: Audit, folder: Path) -> list[str]:
    """Draws what the audit holds; returns the names of the files."""
    lengths(audit.factors, folder / "lengths.png")
    duplicates(audit.factors, folder / "duplicates.png")
    drawn = ["lengths.png", "duplicates.png"]
    if compared := [each for each in audit.redundancy if len(each.factors) > 1]:
        redundancy(compared, folder / "redundancy.png")
        drawn.append("redundancy.png")
    if judged := [figures for figures in audit.factors if figures.accuracy]:
        accuracy(judged, folder / "accuracy.png")
        drawn.append("accuracy.png")
    return drawn


def lengths(factors: Sequence[FactorFigures], path: Path) -> None:
    """Words of the answers: median and the middle 90 %."""
    with figure(path, "Length of the answers", width=7.5, height=_height(factors)) as (_, axes):
        place = _factor_axis(axes, factors)
        for y, figures in zip(place, factors, strict=True):
            low, middle, high = figures.words
            axes.plot([low, high], [y, y], color=_colour(figures), lw=5, alpha=0.35)
            axes.plot(middle, y, "o", ms=6, color=_colour(figures))
        axes.set_xlim(left=0)
        axes.set_xlabel("words (dot: median, bar: 5th to 95th percentile)")


def duplicates(factors: Sequence[FactorFigures], path: Path) -> None:
    """Shares of copies and near copies; the most frequent answer's share."""
    with figure(path, "Answers that others have too", width=7.5, height=_height(factors)) as (
        _,
        axes,
    ):
        place = _factor_axis(axes, factors)
        copied = np.array([figures.copied for figures in factors])
        near = np.array([figures.near_copied for figures in factors])
        axes.barh(place, copied, height=0.62, color="#a9c5d5", label="the same answer")
        axes.barh(
            place,
            near - copied,
            left=copied,
            height=0.62,
            color="#ddcd9d",
            label="only a near copy",
        )
        top = [figures.top_share for figures in factors]
        axes.plot(top, place, "D", ms=6, color=COLOURS[1], label="the most frequent answer")
        _share_axis(axes, "share of the answers")
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))


def redundancy(compared: Sequence[Redundancy], path: Path) -> None:
    """Two matrices a side: words in common, and what one answer tells of another."""
    size = max(len(each.factors) for each in compared)
    side_inches = 1.6 + 0.42 * size
    with figure(
        path,
        "What factors say twice",
        width=2 * side_inches + 1.2,
        height=len(compared) * side_inches + 0.5,
        rows=len(compared),
        columns=2,
    ) as (drawn, grid):
        for each, (words, told) in zip(compared, grid, strict=True):
            _matrix(words, each.overlap, each.factors, f"{each.side}: words in common")
            shown = _matrix(told, each.told, each.factors, f"{each.side}: row tells column")
        drawn.colorbar(shown, ax=grid, shrink=0.5, aspect=30).outline.set_visible(False)


def accuracy(judged: Sequence[FactorFigures], path: Path) -> None:
    """True answers of all entities and of the most and least popular quarter."""
    parts = (("popular", COLOURS[2]), ("all", INK), ("rare", COLOURS[1]))
    named = {"popular": "popular quarter", "all": "all", "rare": "rare quarter"}
    with figure(path, "Answers that are true", width=7.5, height=_height(judged)) as (_, axes):
        place = _factor_axis(axes, judged)
        for y, figures in zip(place, judged, strict=True):
            shares = list(figures.accuracy.values())
            axes.plot([min(shares), max(shares)], [y, y], color=FAINT, lw=3, zorder=1)
        for part, colour in parts:
            found = [
                (figures.accuracy[part], y)
                for y, figures in zip(place, judged, strict=True)
                if part in figures.accuracy
            ]
            if found:
                axes.plot(*zip(*found, strict=True), "o", ms=7, color=colour, label=named[part])
        _share_axis(axes, "share of the answers that are true")
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _height(factors: Sequence[FactorFigures]) -> float:
    return 1.0 + 0.28 * (len(factors) + 1.2 * len(_fields(factors)))


def _fields(factors: Sequence[FactorFigures]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((figures.side, figures.field) for figures in factors))


def _factor_axis(axes: Any, factors: Sequence[FactorFigures]) -> list[float]:
    """Factors from top to bottom below the names of their fields; returns their heights."""
    fields = _fields(factors)
    place: list[float] = []
    for number, figures in enumerate(factors):
        field = fields.index((figures.side, figures.field))
        place.append(number + 1.2 * field)
        if not number or field != fields.index(
            (factors[number - 1].side, factors[number - 1].field)
        ):
            axes.text(
                0.008,
                place[-1] - 0.85,
                f"{figures.field} ({figures.side})",
                transform=axes.get_yaxis_transform(),
                va="center",
                fontsize=9,
                fontweight="bold",
            )
    axes.set_yticks(place, [figures.factor for figures in factors])
    axes.set_ylim(place[-1] + 0.7, -1.4)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    return place


def _share_axis(axes: Any, label: str) -> None:
    axes.set_xlim(0, 1.02)
    axes.set_xticks(np.linspace(0, 1, 6), [f"{share:.0%}" for share in np.linspace(0, 1, 6)])
    axes.set_xlabel(label)


def _matrix(axes: Any, values_FF: NDArray[np.float64], names: Sequence[str], title: str) -> Any:
    axes.set_facecolor("#f3f5f7")
    shown = axes.imshow(values_FF, cmap="Blues", vmin=0, vmax=1)
    axes.set_title(title)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if len(names) <= _NAMED_CELLS:
        for row, column in np.argwhere(~np.isnan(values_FF)):
            value = values_FF[row, column]
            colour = "white" if value > 0.6 else INK
            axes.text(
                column, row, f"{value:.2f}", ha="center", va="center", fontsize=7.5, color=colour
            )
    return shown


def _colour(figures: FactorFigures) -> str:
    return COLOURS[0] if figures.side == "item" else COLOURS[1]
