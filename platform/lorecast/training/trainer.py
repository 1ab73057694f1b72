"""One model from recipe to files: trained, measured, written.

weights.safetensors    the best epoch's parameters
model.json             config, schema, shape of knowledge, strategy, seed: rebuilds the model
curves.json, .png      loss and validation figures by epoch
gates.json, .png       ESFNet's mean weight on each chunk over the test samples (if it has any)
scores.parquet         the test samples in order: user_row, item_row, label, score (probability)
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from lorecast.artifacts import write_json
from lorecast.data.dataset import Dataset
from lorecast.encoding.vectors import VectorsTable
from lorecast.models.click_model import ClickModel
from lorecast.models.feature_tables import feature_tables
from lorecast.models.knowledge import Chunk, KnowledgeShape
from lorecast.training import plots
from lorecast.training.checkpoints import Checkpoints
from lorecast.training.loop import Epoch, Fit, fit, mean_gates, predict
from lorecast.training.metrics import Metrics
from lorecast.training.recipe import Recipe
from lorecast.training.splits import Splits

WEIGHTS = "weights.safetensors"


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """A model with its best weights, and how well it does."""

    recipe: Recipe
    model: ClickModel
    fit: Fit
    test: Metrics
    test_score_B: NDArray[np.float32]


def knowledge_shape(vectors: VectorsTable | None) -> KnowledgeShape | None:
    """The shape of a vectors table."""
    if vectors is None:
        return None
    item, user = (tuple(Chunk(*chunk) for chunk in vectors.chunks(s)) for s in ("item", "user"))
    return KnowledgeShape(dim=vectors.dim, item_chunks=item, user_chunks=user)


def new_model(
    recipe: Recipe,
    dataset: Dataset,
    vectors: VectorsTable | None,
    device: torch.device | None = None,
    base: Path | None = None,
) -> ClickModel:
    """The recipe's model with the start values of its seed, attached to the dataset.

    `base`: folder of the trained model it builds on: the bare backbone (strategy extractor_only,
    `training.backbone_from`), or the one whose extractor it takes (`model.extractor_from`).
    """
    assert (vectors is not None) == recipe.uses_knowledge
    assert (base is not None) == (recipe.is_injected or recipe.is_transfer)
    torch.manual_seed(recipe.seed)
    model = ClickModel(
        recipe.model, dataset.schema, knowledge_shape(vectors), injected=recipe.is_injected
    )
    model.attach(*feature_tables(dataset), vectors)
    model.start_from_vectors()
    model.hold_means()
    if base is not None:
        state = load_file(base / WEIGHTS)
        if recipe.is_transfer:
            model.load_extractor(state)
        else:
            model.load_backbone(state, frozen=recipe.keeps_backbone)
    return model.to(device)


def train(
    recipe: Recipe,
    model: ClickModel,
    splits: Splits,
    *,
    checkpoints: Checkpoints | None = None,
    compiles: bool = False,
    on_rows: Callable[[int], None] = lambda _: None,
    on_epoch: Callable[[Epoch], None] = lambda _: None,
) -> TrainedModel | None:
    """Trains `model`, then scores the test part, once. None on other ranks than 0.

    `splits` are those of the recipe's protocol.
    """
    trained = fit(
        model,
        splits.train,
        splits.valid,
        recipe.training,
        seed=recipe.seed,
        keeps_start=recipe.is_injected,
        checkpoints=checkpoints,
        compiles=compiles,
        on_rows=on_rows,
        on_epoch=on_epoch,
    )
    if not trained.epochs:
        return None
    score_B = predict(model, splits.test.rows)
    return TrainedModel(
        recipe=recipe,
        model=model,
        fit=trained,
        test=splits.test.metrics(score_B),
        test_score_B=score_B,
    )


def write(folder: Path, trained: TrainedModel, splits: Splits, dataset: Dataset) -> dict[str, Any]:
    """Writes the files of a trained model; returns its facts."""
    recipe, model, shape = trained.recipe, trained.model, trained.model.knowledge
    state = {name: value.cpu().contiguous() for name, value in model.state_dict().items()}
    save_file(state, folder / WEIGHTS)
    write_json(
        folder / "model.json",
        {
            "config": recipe.model.model_dump(mode="json"),
            "schema": asdict(dataset.schema),
            "knowledge": shape.to_dict() if shape else None,
            "strategy": recipe.strategy,
            "injected": recipe.is_injected,
            "seed": recipe.seed,
        },
    )
    write_json(folder / "curves.json", [asdict(epoch) for epoch in trained.fit.epochs])
    chosen_on = "validation" if recipe.chosen_on == "valid" else "test"
    plots.curves(trained.fit, folder / "curves.png", recipe.label, chosen_on)
    if model.has_gates:
        mean_C = mean_gates(model, splits.test.rows)
        plots.gates(model.gate_chunks, mean_C, folder / "gates.png", f"ESFNet, {recipe.label}")
        write_json(
            folder / "gates.json",
            [
                {"side": side, **chunk._asdict(), "mean": None if np.isnan(mean) else float(mean)}
                for (side, chunk), mean in zip(model.gate_chunks, mean_C, strict=True)
            ],
        )
    rows = splits.test.rows
    scores = {
        "user_row": rows.user_row_B.cpu().numpy(),
        "item_row": rows.item_row_B.cpu().numpy(),
        "label": splits.test.label_B.cpu().numpy().astype(np.int8),
        "score": trained.test_score_B,
    }
    pq.write_table(pa.table(scores), folder / "scores.parquet")
    return {
        "strategy": recipe.strategy,
        "seed": recipe.seed,
        "protocol": recipe.protocol,
        "metrics": {"valid": asdict(trained.fit.valid), "test": asdict(trained.test)},
        "best_epoch": trained.fit.best_epoch,
        "epochs": len(trained.fit.epochs),
        "seconds": round(sum(epoch.train_s for epoch in trained.fit.epochs), 3),
        "rows_per_second": round(trained.fit.rows_per_second, 1),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "trained_parameters": sum(
            parameter.numel() for parameter in model.parameters() if parameter.requires_grad
        ),
    }
