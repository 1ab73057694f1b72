"""One history for all samples of a batch: what a user's candidates are scored with."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lorecast.config import ModelConfig
from lorecast.data.batches import load_samples
from lorecast.data.dataset import Dataset
from lorecast.encoding.vectors import VectorsTable
from lorecast.models.click_model import _BACKBONES, ClickModel
from lorecast.models.feature_tables import feature_tables
from lorecast.models.inputs import Batch
from tests.small_bundle import CHUNKS, DIM, write_vectors
from tests.tiny_dataset import write_tiny_dataset


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, VectorsTable]:
    workspace: Path = tmp_path_factory.mktemp("workspace")
    dataset = write_tiny_dataset(workspace, rich=True)
    return dataset, write_vectors(workspace, dataset)


def _model(dataset: Dataset, vectors: VectorsTable | None, **config: Any) -> ClickModel:
    from lorecast.models.knowledge import KnowledgeShape

    injected = config.pop("injected", False)
    shape = KnowledgeShape(dim=DIM, item_chunks=CHUNKS["item"], user_chunks=CHUNKS["user"])
    torch.manual_seed(0)
    model = ClickModel(
        ModelConfig(**config), dataset.schema, shape if vectors else None, injected=injected
    )
    model.attach(*feature_tables(dataset), vectors)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()


@torch.inference_mode()
def _check(model: ClickModel, dataset: Dataset) -> None:
    samples = Batch.of(load_samples(dataset, "test"))
    lengths = (samples.history_item_BL > 0).sum(1)
    for place in (int(lengths.argmax()), int(lengths.argmin())):
        num = 37
        rows = torch.full((num,), int(samples.user_row_B[place]), dtype=torch.int32)
        one = slice(place, place + 1)
        assert samples.context_BC is not None
        shared = Batch(
            user_row_B=rows,
            item_row_B=torch.arange(num, dtype=torch.int32),
            history_item_BL=samples.history_item_BL[one],
            history_rating_BL=samples.history_rating_BL[one],
            context_BC=samples.context_BC[one].expand(num, -1),
        )
        each = replace(
            shared,
            history_item_BL=shared.history_item_BL.repeat(num, 1),
            history_rating_BL=shared.history_rating_BL.repeat(num, 1),
        )
        expected_B = model(each)
        torch.testing.assert_close(model(shared), expected_B, rtol=0, atol=1e-5)
        assert expected_B.std() > 1e-3
        parts = [model(shared.slice(start, start + 12)) for start in range(0, num, 12)]
        torch.testing.assert_close(torch.cat(parts), expected_B, rtol=0, atol=1e-5)


@pytest.mark.parametrize("backbone", list(_BACKBONES))
def test_scores_as_if_each_had_it(tables: tuple[Dataset, VectorsTable], backbone: str) -> None:
    _check(_model(tables[0], None, backbone=backbone), tables[0])


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"item_field": True},
        {"extractor": "hein"},
        {"injected": True},
        {"injected": True, "injection": "widen"},
        {"injected": True, "backbone": "dcnv2"},
    ],
    ids=str,
)
def test_with_knowledge_too(tables: tuple[Dataset, VectorsTable], config: dict[str, Any]) -> None:
    _check(_model(*tables, **config), tables[0])
