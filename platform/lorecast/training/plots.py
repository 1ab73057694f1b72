"""Pictures of a training: curves by epoch, ESFNet's weights by chunk."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lorecast.config import Side
from lorecast.drawing import COLOURS, INK, figure
from lorecast.models.knowledge import Chunk
from lorecast.training.loop import Fit


def curves(fit: Fit, path: Path, title: str, chosen_on: str = "validation") -> None:
    """Loss and AUC by epoch, the chosen epoch marked; `chosen_on` is the part that chose it."""
    epochs = [epoch.epoch for epoch in fit.epochs]
    with figure(path, title, width=9.0, height=3.4, columns=2) as (_, [[loss, ranking]]):
        loss.plot(epochs, [e.train_loss for e in fit.epochs], "o-", ms=4, color=COLOURS[0])
        loss.plot(epochs, [e.valid.log_loss for e in fit.epochs], "o-", ms=4, color=COLOURS[1])
        loss.set_title("LogLoss")
        loss.legend(["training", chosen_on], loc="best")
        for colour, name in zip(COLOURS, ("auc", "gauc"), strict=False):
            values = [getattr(e.valid, name) for e in fit.epochs]
            ranking.plot(epochs, values, "o-", ms=4, color=colour, label=name.upper())
        ranking.set_title(f"{chosen_on} AUC and GAUC (chosen: AUC {fit.valid.auc:.4f})")
        ranking.legend(loc="best")
        for axes in (loss, ranking):
            axes.axvline(fit.best_epoch, color=INK, lw=0.8, ls=":", zorder=0)
            axes.grid(axis="y")
            axes.set_xlabel("epoch (dotted: chosen)")
            axes.set_xlim(min(1, fit.best_epoch) - 0.5, max(epochs) + 0.5)
            axes.xaxis.get_major_locator().set_params(integer=True)


def gates(
    chunks: Sequence[tuple[Side, Chunk]], mean_C: NDArray[np.float64], path: Path, title: str
) -> None:
    """ESFNet's mean weight on each chunk, a colour a field; a chunk nobody has shows no bar."""
    fields = list(dict.fromkeys((side, chunk.field) for side, chunk in chunks))
    place_C = [
        i + 0.8 * fields.index((side, chunk.field)) for i, (side, chunk) in enumerate(chunks)
    ]
    height = 1.3 + 0.27 * (place_C[-1] + 1)
    with figure(path, title, width=7.5, height=height) as (_, axes):
        for number, (side, field) in enumerate(fields):
            mine = [i for i, (s, chunk) in enumerate(chunks) if (s, chunk.field) == (side, field)]
            bars = axes.barh(
                [place_C[i] for i in mine],
                np.nan_to_num(mean_C[mine]),
                height=0.72,
                color=COLOURS[number % len(COLOURS)],
                label=f"{field} ({side})",
            )
            axes.bar_label(
                bars,
                labels=["no texts" if np.isnan(mean_C[i]) else f"{mean_C[i]:.2f}" for i in mine],
                padding=3,
                fontsize=8,
                color=INK,
            )
        axes.axvline(1, color=INK, lw=0.8, ls=":", zorder=3)
        axes.set_yticks(place_C, [chunk.factor for _, chunk in chunks])
        axes.invert_yaxis()
        axes.set_xlim(0, max(1.1, 1.12 * float(np.nanmax(mean_C, initial=1.0))))
        axes.set_xlabel("mean weight on test samples (1: as it is, 0: muted)")
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
