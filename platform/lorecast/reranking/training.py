"""Trains one re-ranker: AdamW, lists by permutation in memory, early stop.

Validation MAP@5 chooses the epoch; the test part is scored once, afterwards. On a CPU the same
dataset, vectors and recipe give the same figures.

weights.safetensors    the best epoch's parameters
curves.json            loss and validation MAP@5 by epoch
scores.parquet         the test lists in order: list, user_row, item_row, label, score (logit)

Shapes: W lists, K items a list, R real items of them.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from lorecast.artifacts import write_json
from lorecast.config import RerankingConfig
from lorecast.data.dataset import Dataset
from lorecast.encoding.vectors import VectorsTable
from lorecast.errors import TrainingError
from lorecast.evaluation.ranking import ranking_metrics
from lorecast.knowledge.leakage import check_no_leak
from lorecast.models.feature_tables import feature_tables
from lorecast.models.inputs import Batch
from lorecast.reranking.lists import Lists, load_lists
from lorecast.reranking.models import ReRanker
from lorecast.reranking.recipe import Recipe
from lorecast.training.trainer import knowledge_shape

_STOPPED_BY = 5
"""k of the MAP@k that ends training and chooses the epoch."""
_SCORING_BATCH = 512


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One pass over the training lists."""

    epoch: int
    """From 1."""
    train_loss: float
    valid_map: float
    """MAP@5."""
    seconds: float


@dataclass(frozen=True, kw_only=True)
class TrainedReRanker:
    """A re-ranker with its best weights, and how well it does."""

    recipe: Recipe
    model: ReRanker
    epochs: tuple[Epoch, ...]
    best_epoch: int
    lists: dict[str, int]
    """Number of lists by part of the split."""
    metrics: dict[str, dict[str, float]]
    """By part: `figures`. `first_ranker`: those of the test lists as they come."""
    test: Lists
    test_score_WK: NDArray[np.float32]


def train(
    recipe: Recipe,
    dataset: Dataset,
    vectors: VectorsTable | None,
    on_epoch: Callable[[Epoch], None] = lambda _: None,
) -> TrainedReRanker:
    """The recipe's re-ranker, from its seed.

    Raises TrainingError if a part has no list with a click or the loss is no number, LeakageError
    if knowledge in `vectors` has seen an interaction of a list.
    """
    assert (vectors is not None) == recipe.uses_knowledge
    config = recipe.reranking
    lists = load_lists(dataset, config)
    if vectors is not None and vectors.chunks("user"):
        user_ids = dataset.users()["id"].to_pylist()
        for part in lists.values():
            check_no_leak(
                part.first.user_row_B, part.first.position_B, vectors.user_history_end, user_ids
            )
    torch.manual_seed(recipe.seed)
    model = ReRanker(recipe.model, config, dataset.schema, knowledge_shape(vectors))
    model.attach(*feature_tables(dataset), vectors)
    epochs = fit(model, lists["train"], lists["valid"], config, recipe.seed, on_epoch)
    test_score_WK = predict(model, lists["test"])
    as_it_comes_WK = np.zeros_like(test_score_WK)
    metrics = {
        "valid": figures(lists["valid"], predict(model, lists["valid"]), config.cutoffs),
        "test": figures(lists["test"], test_score_WK, config.cutoffs),
        "first_ranker": figures(lists["test"], as_it_comes_WK, config.cutoffs),
    }
    return TrainedReRanker(
        recipe=recipe,
        model=model,
        epochs=tuple(epochs),
        best_epoch=_best(epochs).epoch,
        lists={split: len(part) for split, part in lists.items()},
        metrics=metrics,
        test=lists["test"],
        test_score_WK=test_score_WK,
    )


def fit(
    model: ReRanker,
    train: Lists,
    valid: Lists,
    config: RerankingConfig,
    seed: int,
    on_epoch: Callable[[Epoch], None] = lambda _: None,
) -> list[Epoch]:
    """Trains until validation MAP@5 has not risen for `config.patience` epochs, and gives the model
    the best epoch's weights. Raises TrainingError if the loss is no number."""
    torch.manual_seed(seed)
    shuffle = torch.Generator().manual_seed(seed)
    tensors = _Tensors.of(train)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=0.0)
    epochs: list[Epoch] = []
    best_state: dict[str, Tensor] = {}
    while len(epochs) < config.epochs:
        started_s = time.monotonic()
        model.train()
        losses = []
        order_W = torch.randperm(len(train), generator=shuffle)
        for index_W in torch.split(order_W, config.batch_size):
            rows, mask_WK = tensors.rows(index_W)
            label_WK = tensors.label_WK.index_select(0, index_W)
            loss = model.loss(model(rows, mask_WK), label_WK, mask_WK)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.detach())
        epoch = Epoch(
            epoch=len(epochs) + 1,
            train_loss=float(torch.stack(losses).mean()),
            valid_map=figures(valid, predict(model, valid), [_STOPPED_BY])[f"map@{_STOPPED_BY}"],
            seconds=time.monotonic() - started_s,
        )
        if not math.isfinite(epoch.train_loss):
            raise TrainingError(
                f"the loss is {epoch.train_loss} in epoch {epoch.epoch}: lower "
                f"reranking.learning_rate (now {config.learning_rate:g})"
            )
        epochs.append(epoch)
        on_epoch(epoch)
        best = _best(epochs)
        if best is epoch:
            best_state = {name: value.clone() for name, value in model.state_dict().items()}
        if epoch.epoch - best.epoch >= config.patience:
            break
    model.load_state_dict(best_state)
    return epochs


def _best(epochs: Sequence[Epoch]) -> Epoch:
    """The first of the highest."""
    return max(epochs, key=lambda epoch: epoch.valid_map)


def predict(model: ReRanker, lists: Lists) -> NDArray[np.float32]:
    """Logits, [W, K]; padding is last."""
    tensors = _Tensors.of(lists)
    model.eval()
    with torch.inference_mode():
        parts = []
        for index_W in torch.split(torch.arange(len(lists)), _SCORING_BATCH):
            rows, mask_WK = tensors.rows(index_W)
            parts.append(model(rows, mask_WK).masked_fill(~mask_WK, -math.inf))
        score_WK: NDArray[np.float32] = torch.cat(parts).numpy()
    return score_WK


def figures(
    lists: Lists, score_WK: NDArray[np.float32], cutoffs: Sequence[int]
) -> dict[str, float]:
    """ndcg@k, map@k and clicks@k (clicked items among the first k), means over lists with a click.

    Equal scores keep the order of the list.
    """
    clicked_W = lists.label_WK.any(axis=1)
    real_WK = lists.item_row_WK > 0
    found = ranking_metrics(
        np.nonzero(real_WK)[0], lists.label_WK[real_WK], score_WK[real_WK], cutoffs
    )
    order_WK = np.argsort(-score_WK[clicked_W], axis=1, kind="stable")
    label_WK = np.take_along_axis(lists.label_WK[clicked_W], order_WK, axis=1)
    for cutoff in cutoffs:
        found[f"clicks@{cutoff}"] = float(label_WK[:, :cutoff].sum(axis=1).mean())
    return found


def write(folder: Path, trained: TrainedReRanker) -> dict[str, Any]:
    """Writes the files of a trained re-ranker; returns its facts."""
    state = {name: value.contiguous() for name, value in trained.model.state_dict().items()}
    save_file(state, folder / "weights.safetensors")
    write_json(folder / "curves.json", [asdict(epoch) for epoch in trained.epochs])
    list_R, place_R = np.nonzero(trained.test.item_row_WK > 0)
    scores = {
        "list": list_R,
        "user_row": trained.test.first.user_row_B[list_R],
        "item_row": trained.test.item_row_WK[list_R, place_R],
        "label": trained.test.label_WK[list_R, place_R],
        "score": trained.test_score_WK[list_R, place_R],
    }
    pq.write_table(pa.table(scores), folder / "scores.parquet")
    return {
        "strategy": trained.recipe.strategy,
        "seed": trained.recipe.seed,
        "lists": trained.lists,
        "metrics": trained.metrics,
        "best_epoch": trained.best_epoch,
        "epochs": len(trained.epochs),
        "seconds": round(sum(epoch.seconds for epoch in trained.epochs), 3),
        "parameters": sum(parameter.numel() for parameter in trained.model.parameters()),
    }


@dataclass(frozen=True)
class _Tensors:
    """Lists as tensors in memory; what a list's items share is stored once."""

    first: Batch
    item_row_WK: Tensor
    label_WK: Tensor
    """0.0 or 1.0."""

    @classmethod
    def of(cls, lists: Lists) -> Self:
        return cls(
            Batch.of(lists.first),
            torch.from_numpy(lists.item_row_WK),
            torch.from_numpy(lists.label_WK.astype(np.float32)),
        )

    def rows(self, index_W: Tensor) -> tuple[Batch, Tensor]:
        """(batch, mask_WK): these lists' items, a list's after each other."""
        item_WK = self.item_row_WK.index_select(0, index_W)
        batch = self.first.take(index_W.repeat_interleave(item_WK.shape[1]))
        return replace(batch, item_row_B=item_WK.flatten()), item_WK > 0
