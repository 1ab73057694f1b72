"""Runs in the peers' interpreter: a bundle's click model as an ONNX graph, and what goes with it.

    PYTHONPATH=PLATFORM python onnx_export.py BUNDLE FOLDER

PLATFORM holds lorecast's core, which the export reads the model with; the server of the graph
(`serving_app.py`) knows nothing of it. The graph takes what a careful engineer would give it: item
rows, one user's history, prestored rows. What depends on the catalogue alone (all items' fields) is
a constant, which ONNX Runtime folds when it loads, and padded steps are masked instead of skipped.
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from lorecast.lifecycle.bundle import Bundle
from lorecast.models import click_model
from lorecast.models.backbones.din import TargetAttention
from lorecast.models.click_model import ClickModel
from lorecast.models.features import FeatureEmbedding
from lorecast.models.inputs import Batch
from lorecast.models.prestored import EntityTables, StoredRows


class _Graph(nn.Module):
    """score_N of candidates of one user."""

    def __init__(self, model: ClickModel, given: SimpleNamespace) -> None:
        super().__init__()
        self.model, self._given = model, given

    def forward(
        self, item_N: Tensor, item_1L: Tensor, level_1L: Tensor, stored_NI: Tensor | None = None
    ) -> Tensor:
        self._given.rows = {} if stored_NI is None else {"item": StoredRows(stored_NI)}
        N = item_N.shape[0]
        batch = Batch(
            user_row_B=torch.zeros_like(item_N),
            item_row_B=item_N,
            history_item_BL=item_1L.expand(N, -1),
            history_rating_BL=level_1L.expand(N, -1),
        )
        score_N: Tensor = self.model(batch).sigmoid()
        return score_N


def export(bundle: Path, folder: Path) -> None:
    """Writes what `serving_app.py` reads. The model may read knowledge of items alone, and
    neither features of users nor a context."""
    opened = Bundle.open(bundle)
    knowledge = opened.open_knowledge()
    model = opened.load_model(knowledge)
    folder.mkdir()
    users, items = opened.entities("user"), opened.entities("item")
    ids = {"user": users["id"].to_pylist(), "item": items["id"].to_pylist()}
    (folder / "ids.json").write_text(json.dumps(ids))
    recent: dict[str, NDArray[np.int64]] = {}
    for name, column in (("items", "recent_item_rows"), ("levels", "recent_ratings")):
        flat = users[column].combine_chunks().flatten().to_numpy().astype(np.int64)
        recent[name] = np.pad(flat.reshape(-1, opened.history_length), ((1, 0), (0, 0)))
        np.save(folder / f"recent_{name}.npy", recent[name])
    examples = [torch.arange(1, 8), *(torch.from_numpy(recent[name][1:2]) for name in recent)]
    candidates = torch.export.Dim("N", min=2)
    shapes: list[Any] = [{0: candidates}, None, None]
    given = SimpleNamespace()
    if isinstance(knowledge, EntityTables):
        assert set(knowledge.tables) == {"item"}, "only items have knowledge here"
        np.save(folder / "stored.npy", knowledge.tables["item"])
        examples.append(knowledge.rows("item", examples[0]))
        shapes.append({0: candidates})
        given.gather = lambda _: given.rows
        model._prestored = given  # type: ignore[assignment]
    with (
        patch.object(TargetAttention, "score", _dense_score),
        patch.object(FeatureEmbedding, "_distinct", _all_items),
        patch.object(Batch, "__len__", lambda _: 0),  # a length is a constant of the graph
        patch.object(click_model, "check_logits", lambda *_: None),
        torch.no_grad(),
    ):
        graph = _Graph(model, given)
        program = torch.onnx.export(
            graph, tuple(examples), dynamic_shapes=tuple(shapes), dynamo=True, verbose=False
        )
    assert program is not None
    program.save(folder / "model.onnx")


def _dense_score(
    self: TargetAttention,
    query_BW: Tensor,
    steps_BLW: Tensor,
    mask_BL: Tensor,
    by_step_BLH: Tensor | None = None,
) -> Tensor:
    """`TargetAttention.score` of all steps, zero where padded: no branch on values."""
    query_HW, _, difference_HW, product_HW = self.first.weight.chunk(4, dim=1)
    by_query_BH = F.linear(query_BW, query_HW + difference_HW, self.first.bias)
    assert by_step_BLH is not None
    first_BLH = F.linear(query_BW[:, None] * steps_BLW, product_HW)
    first_BLH = first_BLH + by_query_BH[:, None] + by_step_BLH
    score_V = self.rest(first_BLH.flatten(0, 1))
    return score_V.view(mask_BL.shape) * mask_BL


def _all_items(self: FeatureEmbedding, row_BP: Tensor, *, few: bool) -> tuple[None, Tensor]:  # noqa: ARG001
    return None, row_BP.long()


if __name__ == "__main__":
    export(Path(sys.argv[1]), Path(sys.argv[2]))
