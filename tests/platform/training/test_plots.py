from pathlib import Path

import numpy as np
import pytest

from lorecast.models.knowledge import Chunk, KnowledgeShape
from lorecast.training import plots
from lorecast.training.loop import Epoch, Fit
from lorecast.training.metrics import Metrics

PNG = b"\x89PNG"


@pytest.mark.parametrize("num_epochs", [1, 5])
def test_curves_are_drawn(tmp_path: Path, num_epochs: int) -> None:
    metrics = Metrics(auc=0.78, log_loss=0.55, gauc=0.72)
    epochs = tuple(
        Epoch(epoch=n, train_loss=0.6 / n, valid=metrics, train_s=1.0, rows_per_second=1e4)
        for n in range(1, num_epochs + 1)
    )
    plots.curves(Fit(epochs=epochs, best_epoch=1), tmp_path / "curves.png", "base-s0", "test")
    assert (tmp_path / "curves.png").read_bytes().startswith(PNG)


def test_gates_are_drawn_even_for_a_chunk_nobody_has(tmp_path: Path) -> None:
    shape = KnowledgeShape(
        dim=4,
        item_chunks=(Chunk("facts", "mood"), Chunk("facts", "theme")),
        user_chunks=(Chunk("taste", "mood"),),
    )
    mean = np.array([1.2, np.nan, 0.4])
    plots.gates(shape.all_chunks, mean, tmp_path / "gates.png", "ESFNet")
    assert (tmp_path / "gates.png").read_bytes().startswith(PNG)
