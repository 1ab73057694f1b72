"""Pictures of a training: curves by epoch, ESFNet's weights by chunk."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lorecast.models.knowledge import KnowledgeShape
from lorecast.training.loop import Fit

_INK, _FAINT = "#22303c", "#d5dbe1"
_COLOURS = ("#2a6f97", "#e07a3f", "#5b8e55", "#9b5d8f", "#b8963b", "#4f6d7a")
_STYLE = {
    "font.size": 10,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "axes.titlesize": 11,
    "axes.titlecolor": _INK,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": _FAINT,
    "grid.linewidth": 0.7,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
}


def curves(fit: Fit, path: Path, title: str) -> None:
    """Loss and validation AUC by epoch, the chosen epoch marked."""
    epochs = [epoch.epoch for epoch in fit.epochs]
    with _figure(path, width=9.0, height=3.4, columns=2) as (figure, (loss, ranking)):
        figure.suptitle(title, x=0.01, ha="left", color=_INK, fontweight="bold")
        loss.plot(epochs, [e.train_loss for e in fit.epochs], "o-", ms=4, color=_COLOURS[0])
        loss.plot(epochs, [e.valid.log_loss for e in fit.epochs], "o-", ms=4, color=_COLOURS[1])
        loss.set_title("LogLoss")
        loss.legend(["training", "validation"], loc="best")
        for colour, name in zip(_COLOURS, ("auc", "gauc"), strict=False):
            values = [getattr(e.valid, name) for e in fit.epochs]
            ranking.plot(epochs, values, "o-", ms=4, color=colour, label=name.upper())
        ranking.set_title(f"validation AUC and GAUC (chosen: AUC {fit.valid.auc:.4f})")
        ranking.legend(loc="best")
        for axes in (loss, ranking):
            axes.axvline(fit.best_epoch, color=_INK, lw=0.8, ls=":", zorder=0)
            axes.grid(axis="y")
            axes.set_xlabel("epoch (dotted: chosen)")
            axes.set_xlim(0.5, max(epochs) + 0.5)
            axes.xaxis.get_major_locator().set_params(integer=True)


def gates(shape: KnowledgeShape, mean_C: NDArray[np.float64], path: Path, title: str) -> None:
    """ESFNet's mean weight on each chunk, a colour a field; a chunk nobody has shows no bar."""
    chunks = shape.all_chunks
    fields = list(dict.fromkeys((side, chunk.field) for side, chunk in chunks))
    place_C = [
        i + 0.8 * fields.index((side, chunk.field)) for i, (side, chunk) in enumerate(chunks)
    ]
    height = 1.3 + 0.27 * (place_C[-1] + 1)
    with _figure(path, width=7.5, height=height) as (figure, axes):
        figure.suptitle(title, x=0.01, ha="left", color=_INK, fontweight="bold")
        for number, (side, field) in enumerate(fields):
            mine = [i for i, (s, chunk) in enumerate(chunks) if (s, chunk.field) == (side, field)]
            bars = axes.barh(
                [place_C[i] for i in mine],
                np.nan_to_num(mean_C[mine]),
                height=0.72,
                color=_COLOURS[number % len(_COLOURS)],
                label=f"{field} ({side})",
            )
            axes.bar_label(
                bars,
                labels=["no texts" if np.isnan(mean_C[i]) else f"{mean_C[i]:.2f}" for i in mine],
                padding=3,
                fontsize=8,
                color=_INK,
            )
        axes.axvline(1, color=_INK, lw=0.8, ls=":", zorder=3)
        axes.set_yticks(place_C, [chunk.factor for _, chunk in chunks])
        axes.invert_yaxis()
        axes.set_xlim(0, max(1.1, 1.12 * float(np.nanmax(mean_C, initial=1.0))))
        axes.set_xlabel("mean weight on test samples (1: as it is, 0: muted)")
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))


@contextmanager
def _figure(path: Path, *, width: float, height: float, columns: int = 1) -> Iterator[Any]:
    """A figure drawn without a display and written to `path` at the end of the block."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure, figure.subplots(1, columns)
        figure.savefig(path, dpi=150)
