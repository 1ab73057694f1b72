"""ESFNet's weights of trained models: on all test rows, and on parts of them.

Legend: C chunks, S slices.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from lorecast.config import ModelConfig
from lorecast.data.batches import Samples
from lorecast.data.dataset import FeatureSchema
from lorecast.drawing import INK, figure
from lorecast.encoding.vectors import VectorsTable
from lorecast.evaluation.slices import Slice
from lorecast.evaluation.tables import NOTHING, Line
from lorecast.jobs.arms import Arm
from lorecast.models.click_model import ClickModel
from lorecast.models.feature_tables import feature_tables
from lorecast.models.inputs import Batch
from lorecast.models.knowledge import KnowledgeShape
from lorecast.training.loop import mean_gates
from lorecast.training.trainer import WEIGHTS

_MOST_ROWS = 20_000
"""Of a slice; more are thinned out evenly."""


def with_gates(arms: Sequence[Arm]) -> list[Arm]:
    """The arms whose models weigh chunks."""
    return [arm for arm in arms if all((path / "gates.json").exists() for path in _folders(arm))]


def gate_table(arms: Sequence[Arm]) -> list[Line]:
    """A line a factor, a column an arm: mean weight over the test rows that have the text, ± its
    standard deviation over seeds."""
    cells = {arm.name: _overall(arm) for arm in arms}
    factors = dict.fromkeys(factor for column in cells.values() for factor in column)
    return [
        {"factor": factor, **{name: cells[name].get(factor, NOTHING) for name in cells}}
        for factor in factors
    ]


def draw_slice_gates(arm: Arm, test: Samples, parts: Sequence[Slice], path: Path) -> None:
    """A matrix of mean weights, a row a factor, a column a slice, by the model of one seed."""
    seed, trained = next(iter(arm.trained.items()))
    model, names = _load(arm, trained.artifact.path)
    mean_SC = np.stack([_mean_gates(model, test, part.mask_B) for part in parts])
    title = f"ESFNet's mean weight by part of the test rows: {arm.name}, seed {seed}"
    width, height = 3.6 + 0.75 * len(parts), 2.6 + 0.3 * len(names)
    with figure(path, title, width=width, height=height) as (drawn, axes):
        furthest = max(0.05, float(np.nanmax(np.abs(mean_SC - 1))))
        image = axes.imshow(
            mean_SC.T, cmap="PuOr_r", vmin=1 - furthest, vmax=1 + furthest, aspect="auto"
        )
        for (column, row), value in np.ndenumerate(mean_SC):
            text = NOTHING if np.isnan(value) else f"{value:.2f}"
            is_dark = abs(value - 1) > 0.45 * furthest
            axes.text(
                column,
                row,
                text,
                ha="center",
                va="center",
                fontsize=8,
                color="white" if is_dark else INK,
            )
        axes.set_yticks(range(len(names)), names)
        labels = [f"{part.family}:\n{part.name}" for part in parts]
        axes.set_xticks(
            range(len(parts)), labels, rotation=40, ha="right", rotation_mode="anchor", fontsize=8
        )
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        drawn.colorbar(image, ax=axes, shrink=0.6, label="1: as it is, 0: muted")


def _overall(arm: Arm) -> dict[str, str]:
    of_seeds = [json.loads((path / "gates.json").read_text()) for path in _folders(arm)]
    cells = {}
    for chunks in zip(*of_seeds, strict=True):
        means = [chunk["mean"] for chunk in chunks if chunk["mean"] is not None]
        spread = f" ± {np.std(means, ddof=1):.2f}" if len(means) > 1 else ""
        name = f"{chunks[0]['side']} · {chunks[0]['field']} · {chunks[0]['factor']}"
        cells[name] = f"{np.mean(means):.2f}{spread}" if means else NOTHING
    return cells


def _mean_gates(model: ClickModel, test: Samples, mask_B: NDArray[np.bool_]) -> NDArray[np.float64]:
    rows = np.flatnonzero(mask_B)
    thinned = rows[:: -(-len(rows) // _MOST_ROWS)]
    return mean_gates(model, Batch.of(test.take(thinned)))


def _load(arm: Arm, folder: Path) -> tuple[ClickModel, list[str]]:
    """A trained model with its vectors, and the names of its chunks."""
    card = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    model = ClickModel(
        ModelConfig.model_validate(card["config"]),
        FeatureSchema.from_dict(card["schema"]),
        KnowledgeShape.from_dict(card["knowledge"]),
        injected=card.get("injected", card["strategy"] == "extractor_only"),
    )
    dataset = arm.pipeline.dataset
    vectors = VectorsTable.open(arm.pipeline.encode().path)
    model.attach(*feature_tables(dataset), vectors)
    model.load_state_dict(load_file(folder / WEIGHTS))
    torch.set_num_threads(1)
    return model, [f"{chunk.field} · {chunk.factor}" for _, chunk in model.gate_chunks]


def _folders(arm: Arm) -> list[Path]:
    return [model.artifact.path for model in arm.trained.values()]
