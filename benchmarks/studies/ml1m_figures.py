"""Pictures of the study on MovieLens-1M."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.studies.ml1m_slices import ALL, COUNTED, Part
from benchmarks.studies.ml1m_sources import percent
from benchmarks.studies.tables import on_test, paired
from lorecast.artifacts import Artifact
from lorecast.drawing import COLOURS, INK, figure


def draw_rows(found: Mapping[str, Sequence[Artifact]], path: Path) -> None:
    """Test AUC of each row minus the base's: a dot a seed, the 95 % interval over seeds."""
    names = [name for name in found if name != "base"]
    base = on_test(found["base"])
    title = "DIN on MovieLens-1M: test AUC against the bare backbone"
    with figure(path, title, width=7.5, height=0.9 + 0.3 * len(names)) as (_, axes):
        for place, name in enumerate(names):
            gain = on_test(found[name]) - base
            axes.plot(gain, np.full(gain.size, place), ".", ms=4, color=COLOURS[1])
            over_seeds = paired(found[name], found["base"])
            error = over_seeds.half_width if over_seeds else 0.0
            axes.errorbar(gain.mean(), place, xerr=error, fmt="o", ms=5, color=COLOURS[0])
        axes.axvline(0, color=INK, lw=0.8, ls=":")
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.grid(axis="x")
        axes.set_xlabel("difference of test AUC; bar: 95 % over seeds, small dots: seeds")


def draw_shares(parts: Mapping[float, Mapping[str, Part]], path: Path) -> None:
    """Gains by share of the training users, and KSER's by the item's training samples."""
    title = "What texts add on MovieLens-1M (DIN): 95 % over users"
    with figure(path, title, width=10.0, height=4.0, columns=2) as (_, grid):
        left, right = grid[0]
        for arm, colour in zip(("hein", "kser"), COLOURS, strict=False):
            _line(left, list(parts), [parts[share][ALL] for share in parts], arm, colour, arm)
        left.set_xscale("log")
        left.set_xticks(list(parts), [percent(share) for share in parts])
        left.set_xticks([], minor=True)
        left.set_xlabel("share of the training users")
        left.set_ylabel("test AUC − base")
        for number, (share, colour) in enumerate(zip(parts, COLOURS, strict=False)):
            across = [place + 0.08 * number for place in range(len(COUNTED))]
            of_share = [parts[share][name] for name in COUNTED]
            _line(right, across, of_share, "kser", colour, f"{percent(share)} of users")
        right.set_xticks(range(len(COUNTED)), ["0", "1–5", "6–20", "over 20"])
        right.set_xlabel("training samples of the item")
        right.set_ylabel("KSER: test AUC − base")
        for axes in (left, right):
            axes.axhline(0, color=INK, lw=0.8, ls=":")
            axes.grid(axis="y")
            axes.legend()


def _line(
    axes: Any, across: Sequence[float], parts: Sequence[Part], arm: str, colour: str, label: str
) -> None:
    there = [(x, part.gains[arm]) for x, part in zip(across, parts, strict=True) if part.gains]
    gains = [gain for _, gain in there]
    errors = [[g.value - g.low for g in gains], [g.high - g.value for g in gains]]
    axes.errorbar(
        [x for x, _ in there],
        [gain.value for gain in gains],
        yerr=np.maximum(errors, 0),
        fmt="o-",
        ms=4,
        lw=1.2,
        capsize=2,
        color=colour,
        label=label,
    )
