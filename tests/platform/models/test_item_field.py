"""Items' texts as a field of every item."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from lorecast.config import ModelConfig, load_config
from lorecast.errors import ConfigError
from lorecast.models.click_model import ClickModel
from lorecast.models.inputs import Batch
from lorecast.models.prestored import EntityTables
from tests import planted

EXTRACTORS = pytest.mark.parametrize("extractor", ["kser", "hein", "naive"])


def _model(
    vectors: planted.Vectors | EntityTables, extractor: str = "naive", **changes: Any
) -> ClickModel:
    """A model away from its start values, the same one for every `vectors`."""
    torch.manual_seed(0)
    config = {"embedding_dim": 8, "item_field": True, "extractor": extractor, **changes}
    model = ClickModel(ModelConfig.model_validate(config), planted.SCHEMA, planted.SHAPE)
    model.attach(*planted.codes(np.random.default_rng(1)), vectors)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        model.features.table.weight[0] = 0
    return model.eval()


@EXTRACTORS
@pytest.mark.parametrize("backbone", ["din", "deepfm"])
def test_a_history_is_read_through_its_texts(
    backbone: str, extractor: str, rng: np.random.Generator
) -> None:
    samples, vectors = planted.world(rng, 50)
    vectors.arrays["item"][...] += 1
    batch = Batch.of(samples)
    before = _model(vectors, extractor, backbone=backbone)(batch)
    told = samples.history_item_BL[:, -1]
    told = np.setdiff1d(told, np.append(samples.item_row_B, 0))
    vectors.arrays["item"][told] *= -2
    changed = (_model(vectors, extractor, backbone=backbone)(batch) - before).abs() > 1e-5
    concerned = np.isin(samples.history_item_BL, told).any(1)
    assert changed[torch.from_numpy(concerned)].float().mean() > 0.9
    assert not changed[torch.from_numpy(~concerned)].any()


@pytest.mark.invariant
@EXTRACTORS
def test_neither_batch_nor_padding_changes_a_score(
    extractor: str, rng: np.random.Generator
) -> None:
    samples, vectors = planted.world(rng, 40)
    model, batch = _model(vectors, extractor), Batch.of(samples)
    together = model(batch)
    alone = torch.cat([model(batch.slice(i, i + 1)) for i in range(40)])
    torch.testing.assert_close(alone, together, atol=2e-5, rtol=2e-5)
    padding = torch.zeros(40, 3, dtype=torch.int32)
    padded = replace(
        batch,
        history_item_BL=torch.cat([padding, batch.history_item_BL], dim=1),
        history_rating_BL=torch.cat([padding, batch.history_rating_BL], dim=1),
    )
    torch.testing.assert_close(model(padded), together, atol=2e-5, rtol=2e-5)


@EXTRACTORS
def test_prestored_rows_score_like_vectors(extractor: str, rng: np.random.Generator) -> None:
    samples, vectors = planted.world(rng, 60)
    vectors.masks["item"][::5] = False
    model, batch = _model(vectors, extractor), Batch.of(samples)
    sizes = {"item": planted.NUM_ITEMS + 1, "user": planted.NUM_USERS + 1}
    tables = {
        side: model.entity_rows(side, torch.arange(sizes[side])).detach().numpy()
        for side in planted.SHAPE.sides
    }
    found = _model(EntityTables(tables), extractor)(batch)
    torch.testing.assert_close(found, model(batch), atol=1e-5, rtol=1e-5)


def test_every_parameter_learns_and_the_field_is_zero_without_texts(
    rng: np.random.Generator,
) -> None:
    samples, vectors = planted.world(rng, 60)
    vectors.masks["item"][::2] = False
    model = _model(vectors).train()
    model(Batch.of(samples)).square().sum().backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []
    fields = model._fields(Batch.of(samples))
    field_BE = fields.target_BNE[:, -1]
    there = torch.from_numpy(vectors.masks["item"][samples.item_row_B].any(1))
    assert not field_BE[~there].any()
    assert field_BE[there].any(1).all()


def test_a_frozen_backbone_has_no_such_field() -> None:
    overrides = ["training.strategies=[base,extractor_only]", "model.item_field=true"]
    with pytest.raises(ConfigError, match=r"model\.item_field"):
        load_config(None, overrides)


def test_the_identity_names_it_only_if_it_is_on() -> None:
    plain = load_config(None).model.identity()
    assert load_config(None, ["model.item_field=false"]).model.identity() == plain
    assert load_config(None, ["model.item_field=true"]).model.identity() != plain
