"""How every picture looks: colours, style, a figure that needs no display."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

INK: Final = "#22303c"
FAINT: Final = "#d5dbe1"
COLOURS: Final = ("#2a6f97", "#e07a3f", "#5b8e55", "#9b5d8f", "#b8963b", "#4f6d7a")

_STYLE: Final = {
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlesize": 11,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.7,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}


@contextmanager
def figure(
    path: Path, title: str, *, width: float, height: float, rows: int = 1, columns: int = 1
) -> Iterator[tuple[Any, Any]]:
    """(figure, axes), sizes in inches; written to `path`, in the format of its suffix, at the end
    of the block. More than one axes come as rows of columns."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        drawn = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(drawn)
        drawn.suptitle(title, x=0.01, ha="left", color=INK, fontweight="bold")
        yield drawn, drawn.subplots(rows, columns, squeeze=rows * columns == 1)
        drawn.savefig(path, dpi=150)
