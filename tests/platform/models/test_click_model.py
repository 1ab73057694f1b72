"""What holds for every backbone and extractor; a new one joins the parameters."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lorecast.config import ModelConfig
from lorecast.models.click_model import ClickModel
from lorecast.models.inputs import Batch
from tests import planted

CASES = pytest.mark.parametrize("with_knowledge", [False, True], ids=["din", "din+kser"])


def _model(with_knowledge: bool, rng: np.random.Generator) -> tuple[ClickModel, Batch]:
    """A model with other than start values, so that gates and statistics matter."""
    samples, vectors = planted.world(rng, 200)
    vectors.masks["item"][::3, 1] = False
    vectors.masks["user"][::4] = False
    torch.manual_seed(0)
    model = ClickModel(ModelConfig(), planted.SCHEMA, planted.SHAPE if with_knowledge else None)
    model.attach(*planted.codes(rng), vectors if with_knowledge else None)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        model.features.table.weight[0] = 0
    batch = Batch.of(samples)
    model.train()
    for _ in range(20):
        model(batch)
    return model.eval(), batch


@pytest.mark.invariant
@CASES
def test_batch_size_and_order_do_not_change_a_score(
    with_knowledge: bool, rng: np.random.Generator
) -> None:
    model, batch = _model(with_knowledge, rng)
    together = model(batch).sigmoid()
    alone = torch.cat([model(batch.slice(i, i + 1)).sigmoid() for i in range(len(batch))])
    torch.testing.assert_close(alone, together, atol=1e-6, rtol=0)
    order = torch.randperm(len(batch))
    shuffled = model(batch.take(order)).sigmoid()
    torch.testing.assert_close(shuffled, together[order], atol=1e-6, rtol=0)


@pytest.mark.invariant
@CASES
def test_padding_does_not_change_a_score(with_knowledge: bool, rng: np.random.Generator) -> None:
    model, batch = _model(with_knowledge, rng)
    padding = torch.zeros(len(batch), 6, dtype=torch.int32)
    padded = replace(
        batch,
        history_item_BL=torch.cat([padding, batch.history_item_BL], dim=1),
        history_rating_BL=torch.cat([padding, batch.history_rating_BL], dim=1),
    )
    found, expected = model(padded).sigmoid(), model(batch).sigmoid()
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@CASES
def test_unknown_user_item_and_empty_history_get_a_score(
    with_knowledge: bool, rng: np.random.Generator
) -> None:
    model, _ = _model(with_knowledge, rng)
    nobody, nothing = torch.zeros(3, dtype=torch.int32), torch.zeros(3, 4, dtype=torch.int32)
    unknown = Batch(nobody, nobody, nothing, nothing)
    scores = model(unknown)
    assert scores.isfinite().all()
    torch.testing.assert_close(scores, scores[:1].expand(3))


@CASES
def test_every_parameter_learns(with_knowledge: bool, rng: np.random.Generator) -> None:
    model, batch = _model(with_knowledge, rng)
    model.train()
    model(batch).square().sum().backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


@pytest.mark.invariant
def test_without_what_knowledge_adds_the_model_is_its_backbone(rng: np.random.Generator) -> None:
    model, batch = _model(True, rng)
    bare = ClickModel(ModelConfig(), planted.SCHEMA, None)
    added = 2 * ModelConfig().embedding_dim
    weights = {k: v for k, v in model.state_dict().items() if not k.startswith("extractor.")}
    first = "backbone.head.0.weight"
    weights[first][:, -added:] = 0
    bare.load_state_dict({**weights, first: weights[first][:, :-added]})
    bare.attach(*planted.codes(np.random.default_rng(1)), None)
    model.attach(*planted.codes(np.random.default_rng(1)), planted.world(rng, 1)[1])
    torch.testing.assert_close(bare.eval()(batch), model(batch), atol=1e-6, rtol=0)


def test_parameter_counts() -> None:
    def count(shape: object) -> int:
        model = ClickModel(ModelConfig(), planted.SCHEMA, shape)  # type: ignore[arg-type]
        return sum(parameter.numel() for parameter in model.parameters())

    embeddings = 32 * (1 + 400 + 5 + 3 + 5)
    attention = (4 * 64 * 32 + 32) + 32 + (32 * 16 + 16) + 16 + (16 + 1)
    step = 96 * 64 + 64
    head = ((64 + 64 + 32) * 200 + 200) + (200 * 80 + 80) + (80 + 1)
    assert count(None) == embeddings + step + attention + head

    d, fields, chunks, queries = 32, 3, 4, 6
    project = (2 + 1) * (16 * d + d) + 2 * 2 * d + chunks * d
    context = queries * 32
    by_all = (chunks + fields * d + context) * 128 + 128 + 128 * chunks + chunks
    own = 2 * fields * (d * d + d) + context * fields * d
    gate = by_all + own + 2 * fields * d
    ask = context * 2 * d + 2 * 2 * d
    align = ask + 2 * d * d + d + (d * d + d) + 2 * d
    output = d * 32 + 32
    added = project + gate + align + output + 2 * 32 * 200
    assert count(planted.SHAPE) == count(None) + added
