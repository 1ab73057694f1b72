"""Prestored rows score like the vectors they were made of, whatever the extractor."""

import numpy as np
import pytest
import torch

from lorecast.config import ModelConfig
from lorecast.models.click_model import ClickModel
from lorecast.models.inputs import Batch
from lorecast.models.prestored import EntityTables
from tests import planted
from tests.platform.models.test_extractors import VARIANTS

MORE = {
    "kser-without-context": {"kser": {"context": False}},
    "kser-bare": {"kser": {"gate": "none", "align": False}},
    "kser-certainty-slices": {"kser": {"certainty": True, "chunks": "slices", "slice": 4}},
    "kser-certainty-both": {"kser": {"certainty": True, "chunks": "both", "slice": 4}},
    "shuffled": {"shuffle_knowledge": True, "kser": {"certainty": True}},
    "transferred": {"extractor_from": "there"},
}
ALL = VARIANTS | MORE
EACH = pytest.mark.parametrize("variant", ALL)


def model_of(
    variant: str, vectors: planted.Vectors | EntityTables, *, injection: str | None = None
) -> ClickModel:
    """A model away from its start values; the same one for every `vectors`."""
    torch.manual_seed(0)
    config = ModelConfig.model_validate(
        {"embedding_dim": 8, "injection": injection or "residual", **ALL[variant]}
    )
    injected = injection is not None
    model = ClickModel(config, planted.SCHEMA, planted.SHAPE, injected=injected)
    model.attach(*planted.codes(np.random.default_rng(1)), vectors)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def tables(model: ClickModel) -> EntityTables:
    """What the model's extractor makes of all entities, in two blocks."""
    sizes = {"item": planted.NUM_ITEMS + 1, "user": planted.NUM_USERS + 1}
    return EntityTables(
        {
            side: torch.cat(
                [
                    model.entity_rows(side, torch.arange(0, 100)),
                    model.entity_rows(side, torch.arange(100, sizes[side])),
                ]
            ).numpy()
            for side in planted.SHAPE.sides
        }
    )


@pytest.fixture
def samples(rng: np.random.Generator) -> tuple[Batch, planted.Vectors]:
    """Samples, some of unknown users and items, and knowledge with gaps."""
    samples, vectors = planted.world(rng, 200)
    vectors.masks["item"][::3, 1] = False
    vectors.masks["item"][::5] = False
    vectors.masks["user"][::4] = False
    samples.item_row_B[::7] = 0
    samples.user_row_B[::9] = 0
    return Batch.of(samples), vectors


@pytest.mark.invariant
@EACH
@torch.inference_mode()
def test_scores_are_those_of_the_vectors(
    variant: str, samples: tuple[Batch, planted.Vectors]
) -> None:
    batch, vectors = samples
    online = model_of(variant, vectors)
    expected = online(batch)
    prestored = model_of(variant, tables(online))
    torch.testing.assert_close(prestored(batch), expected, atol=1e-5, rtol=0)
    assert expected.std() > 0.01
    if online.has_gates:
        torch.testing.assert_close(prestored.gates(batch), online.gates(batch), atol=1e-5, rtol=0)


@pytest.mark.invariant
@pytest.mark.parametrize(
    ("variant", "injection"),
    [
        *((variant, "residual") for variant in ("kser", "kser-slices", "kser-both")),
        *((variant, injection) for variant in ("kser", "hein") for injection in ("widen", "logit")),
    ],
)
@torch.inference_mode()
def test_the_injected_forms_score_alike(
    variant: str, injection: str, samples: tuple[Batch, planted.Vectors]
) -> None:
    batch, vectors = samples
    online = model_of(variant, vectors, injection=injection)
    prestored = model_of(variant, tables(online), injection=injection)
    torch.testing.assert_close(prestored(batch), online(batch), atol=1e-5, rtol=0)


@EACH
@torch.inference_mode()
def test_rows_of_others_score_otherwise(
    variant: str, samples: tuple[Batch, planted.Vectors]
) -> None:
    batch, vectors = samples
    online = model_of(variant, vectors)
    stored = tables(online).tables
    others = EntityTables({side: np.roll(table, 1, axis=0) for side, table in stored.items()})
    assert not torch.allclose(model_of(variant, others)(batch), online(batch), atol=1e-3)


@pytest.mark.parametrize("variant", ["hein", "moe", "mlp", "naive"])
def test_of_an_entity_extractor_a_row_is_the_field(
    variant: str, samples: tuple[Batch, planted.Vectors]
) -> None:
    _, vectors = samples
    with torch.inference_mode():
        stored = tables(model_of(variant, vectors)).tables
    for side, table in stored.items():
        assert table.shape[1] == 8
        without_texts = ~vectors.masks[side].any(axis=1)
        assert without_texts.any()
        assert not table[without_texts].any()
