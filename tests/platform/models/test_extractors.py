"""What holds for every extractor; a new one joins by its name in the experiment."""

from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from lorecast.artifacts import fingerprint
from lorecast.config import ModelConfig, TrainingConfig
from lorecast.errors import EncodingError
from lorecast.evaluation.metrics import auc
from lorecast.models.click_model import ClickModel
from lorecast.models.extractors.hein import HEIN
from lorecast.models.inputs import Batch, FieldCounts
from lorecast.models.knowledge import Chunk, KnowledgeShape, gather, shuffled
from lorecast.training.recipe import Recipe
from tests import planted

NAMES = get_args(ModelConfig.model_fields["extractor"].annotation)
VARIANTS: dict[str, dict[str, Any]] = {
    **{name: {"extractor": name} for name in NAMES},
    "kser-without-gate": {"kser": {"gate": "none"}},
    "kser-without-alignment": {"kser": {"align": False}},
    "kser-softmax": {"kser": {"gate": "softmax"}},
    "kser-two-layers": {"kser": {"layers": 2}},
    "kser-slices": {"kser": {"chunks": "slices", "slice": 4}},
    "kser-both": {"kser": {"chunks": "both", "slice": 4}},
    "kser-certainty": {"kser": {"certainty": True}},
}
CUT = {"kser-slices", "kser-both"}
GATED = {
    "kser", "kser-without-alignment", "kser-softmax", "kser-two-layers", "kser-certainty", *CUT,
}  # fmt: skip
ALIGNED = {
    "kser", "kser-without-gate", "kser-softmax", "kser-two-layers", "kser-certainty", *CUT,
}  # fmt: skip
EACH = pytest.mark.parametrize("variant", VARIANTS)


def _config(variant: str, **changes: Any) -> ModelConfig:
    return ModelConfig.model_validate({"embedding_dim": 8, **VARIANTS[variant], **changes})


def _model(
    variant: str, rng: np.random.Generator, **changes: Any
) -> tuple[ClickModel, Batch, planted.Vectors]:
    """A model away from its start values, and knowledge with gaps."""
    samples, vectors = planted.world(rng, 200)
    vectors.masks["item"][::3, 1] = False
    vectors.masks["item"][::5] = False
    vectors.masks["user"][::4] = False
    torch.manual_seed(0)
    model = ClickModel(_config(variant, **changes), planted.SCHEMA, planted.SHAPE)
    model.attach(*planted.codes(rng), vectors)
    model.start_from_vectors()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        model.features.table.weight[0] = 0
    return model.eval(), Batch.of(samples), vectors


def _extract(model: ClickModel, batch: Batch, vectors: planted.Vectors) -> torch.Tensor:
    assert model.extractor
    return model.extractor(model.features(batch), gather(vectors, planted.SHAPE, batch))[0]


@EACH
@pytest.mark.parametrize("item_field", [False, True])
def test_held_means_change_no_score(
    variant: str, item_field: bool, rng: np.random.Generator
) -> None:
    model, batch, _ = _model(variant, rng, item_field=item_field)
    read = model(batch)
    model.hold_means()
    torch.testing.assert_close(model(batch), read, atol=1e-5, rtol=1e-5)


@EACH
def test_fields_and_gates_have_their_shapes(variant: str, rng: np.random.Generator) -> None:
    model, batch, vectors = _model(variant, rng)
    assert model.extractor
    extra, gates = model.extractor(model.features(batch), gather(vectors, planted.SHAPE, batch))
    assert extra.shape == (len(batch), model.extractor.num_fields, 8)
    assert model.has_gates == (variant in GATED)
    if gates is None:
        assert not model.has_gates
    else:
        masks = [vectors.masks["item"][batch.item_row_B], vectors.masks["user"][batch.user_row_B]]
        if variant == "kser-slices":
            masks = [mask.any(axis=1, keepdims=True) for mask in masks]
        there = np.repeat(np.hstack(masks), 4 if variant in CUT else 1, axis=1)
        assert ((gates > 0).numpy() == there).all()
        assert len(model.gate_chunks) == there.shape[1]
    assert model(batch).shape == (len(batch),)


@pytest.mark.invariant
@EACH
def test_what_the_mask_leaves_out_has_no_influence(variant: str, rng: np.random.Generator) -> None:
    model, batch, vectors = _model(variant, rng)
    expected = _extract(model, batch, vectors)
    for side, mask in vectors.masks.items():
        vectors.arrays[side][~mask] = vectors.certainties[side][~mask] = 100
    torch.testing.assert_close(_extract(model, batch, vectors), expected)


@pytest.mark.invariant
@EACH
def test_an_unknown_entity_is_one_without_texts(variant: str, rng: np.random.Generator) -> None:
    model, batch, vectors = _model(variant, rng)
    nobody = torch.zeros_like(batch.user_row_B)
    fields = model.features(batch)
    unknown = replace(batch, user_row_B=nobody, item_row_B=nobody)
    assert model.extractor
    found, _ = model.extractor(fields, gather(vectors, planted.SHAPE, unknown))
    for mask in vectors.masks.values():
        mask[...] = False
    expected, _ = model.extractor(fields, gather(vectors, planted.SHAPE, batch))
    assert found.isfinite().all()
    torch.testing.assert_close(found, expected)


@pytest.mark.invariant
@EACH
def test_neither_batch_nor_padding_changes_a_sample(variant: str, rng: np.random.Generator) -> None:
    model, batch, vectors = _model(variant, rng)
    together = _extract(model, batch, vectors)
    alone = [_extract(model, batch.slice(i, i + 1), vectors) for i in range(len(batch))]
    torch.testing.assert_close(torch.cat(alone), together, atol=1e-5, rtol=1e-5)
    order = torch.randperm(len(batch))
    found = _extract(model, batch.take(order), vectors)
    torch.testing.assert_close(found, together[order], atol=1e-5, rtol=1e-5)
    padding = torch.zeros(len(batch), 6, dtype=torch.int32)
    padded = replace(
        batch,
        history_item_BL=torch.cat([padding, batch.history_item_BL], dim=1),
        history_rating_BL=torch.cat([padding, batch.history_rating_BL], dim=1),
    )
    found = _extract(model, padded, vectors)
    torch.testing.assert_close(found, together, atol=1e-5, rtol=1e-5)


@EACH
def test_every_parameter_learns(variant: str, rng: np.random.Generator) -> None:
    model, batch, _ = _model(variant, rng)
    model.train()
    model(batch).square().sum().backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


@EACH
def test_weights_hold_all_that_start_values_set(variant: str, rng: np.random.Generator) -> None:
    model, batch, vectors = _model(variant, rng)
    again = ClickModel(_config(variant), planted.SCHEMA, planted.SHAPE)
    again.attach(*planted.codes(np.random.default_rng(1)), vectors)
    model.attach(*planted.codes(np.random.default_rng(1)), vectors)
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(again.eval()(batch), model(batch), atol=0, rtol=0)


@EACH
def test_one_side_alone_works(variant: str, rng: np.random.Generator) -> None:
    samples, vectors = planted.world(rng, 20)
    shape = KnowledgeShape(dim=planted.DIM, user_chunks=(Chunk("taste", "kind"),))
    model = ClickModel(_config(variant), planted.SCHEMA, shape)
    model.attach(*planted.codes(rng), vectors)
    model.start_from_vectors()
    assert model.extractor
    assert model.extractor.num_fields == (2 if variant in ALIGNED else 1)
    assert model(Batch.of(samples)).isfinite().all()


@pytest.mark.invariant
@EACH
def test_true_knowledge_is_learnt_and_shuffled_is_not(variant: str) -> None:
    def measured(shuffle: bool) -> float:
        rng = np.random.default_rng(0)
        samples, vectors = planted.world(rng, 8000)
        train, _, test = planted.parts(samples)
        torch.manual_seed(0)
        config = _config(variant, shuffle_knowledge=shuffle)
        model = ClickModel(config, planted.SCHEMA, planted.SHAPE)
        model.attach(*planted.codes(rng), vectors)
        model.start_from_vectors()
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        rows, label = Batch.of(train), torch.from_numpy(train.label_B).float()
        for index in torch.randint(len(rows), (150, 256)):
            loss = F.binary_cross_entropy_with_logits(model(rows.take(index)), label[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.inference_mode():
            logit = model.eval()(Batch.of(test))
        return auc(test.label_B, logit.numpy())

    assert measured(shuffle=False) > 0.78  # an oracle has 0.84
    assert abs(measured(shuffle=True) - 0.5) < 0.05


def test_an_entity_is_centred_scaled_and_zero_without_texts(rng: np.random.Generator) -> None:
    _, vectors = planted.world(rng, 1)
    for array in vectors.arrays.values():
        array += 5  # what all texts share
        array *= np.float16(0.05)
    vectors.masks["item"][::2, 1] = False
    vectors.masks["item"][3] = False
    model = ClickModel(_config("hein"), planted.SCHEMA, planted.SHAPE)
    assert isinstance(model.extractor, HEIN)
    model.extractor.start_from(vectors)
    nothing = torch.zeros(planted.NUM_ITEMS, planted.HISTORY, dtype=torch.int32)
    row = torch.arange(1, planted.NUM_ITEMS + 1)
    known = gather(vectors, planted.SHAPE, Batch(row, row, nothing, nothing))["item"]
    entity = model.extractor.entity["item"](known)
    there = known.mask_UC.any(1)
    assert entity[there].mean(0).abs().max() < 0.1
    assert float(entity[there].square().mean()) == pytest.approx(1, abs=0.01)
    assert not entity[2].any()


def test_hein_is_its_equations(rng: np.random.Generator) -> None:
    model, batch, vectors = _model("hein", rng)
    hein = model.extractor
    assert isinstance(hein, HEIN)
    known = gather(vectors, planted.SHAPE, batch)["user"]
    k = hein.entity["user"](known)
    experts = [*hein.shared, *hein.dedicated["user"]]
    weights = hein.gate["user"](k).softmax(1).split(1, dim=1)
    field = sum(weight * expert(k) for weight, expert in zip(weights, experts, strict=True))
    expected = torch.where(known.mask_UC.any(1, keepdim=True), field, 0)[known.entity_B]
    torch.testing.assert_close(_extract(model, batch, vectors)[:, 1], expected)


def test_hein_is_as_large_as_kars_adaptor() -> None:
    shape = KnowledgeShape(
        dim=768, item_chunks=(Chunk("facts", "all"),), user_chunks=(Chunk("taste", "all"),)
    )
    config = ModelConfig.model_validate({"extractor": "hein", "hein": {"dedicated": 5}})
    hein = HEIN(config, shape, FieldCounts(target=2, history=3, extra=0, dim=32))
    assert sum(parameter.numel() for parameter in hein.parameters()) == 1_241_486


def test_the_mean_is_kser_without_its_parts(rng: np.random.Generator) -> None:
    mean, batch, vectors = _model("mean", rng)
    config = _config("kser", kser={"gate": "none", "align": False})
    bare = ClickModel(config, planted.SCHEMA, planted.SHAPE)
    bare.load_state_dict(mean.state_dict())
    found, expected = _extract(bare.eval(), batch, vectors), _extract(mean, batch, vectors)
    torch.testing.assert_close(found, expected, atol=0, rtol=0)


def test_shuffled_knowledge_is_a_fixed_permutation_of_entities(rng: np.random.Generator) -> None:
    _, vectors = planted.world(rng, 1)
    vectors.masks["item"][::3, 1] = False
    one, again = (shuffled(vectors, ("item", "user")) for _ in range(2))
    other = shuffled(vectors, ("item",), seed=1)
    for side in ("item", "user"):
        np.testing.assert_array_equal(one.vectors(side), again.vectors(side))
        assert not one.vectors(side)[0].any()
        assert one.mask(side).sum() == vectors.mask(side).sum()
    rows = [row.tobytes() for row in vectors.vectors("item")]
    place = [rows.index(row.tobytes()) for row in one.vectors("item")]
    assert sorted(place) == list(range(len(rows)))
    np.testing.assert_array_equal(one.mask("item"), vectors.mask("item")[place])
    np.testing.assert_array_equal(one.certainty("item"), vectors.certainty("item")[place])
    vectors.certainties.clear()
    assert shuffled(vectors, ("item",)).certainty("item") is None
    assert (other.vectors("item") != one.vectors("item")).any()


@pytest.mark.bad_input
def test_certainty_that_no_text_has(rng: np.random.Generator) -> None:
    _, vectors = planted.world(rng, 1)
    vectors.certainties.clear()
    for variant, kser in (("kser", {"certainty": True, "gate": "none"}), ("hein", {})):
        model = ClickModel(_config(variant, kser=kser), planted.SCHEMA, planted.SHAPE)
        model.attach(*planted.codes(rng), vectors)
    model = ClickModel(_config("kser-certainty"), planted.SCHEMA, planted.SHAPE)
    with pytest.raises(EncodingError, match=r"knowledge\.llm\.certainty"):
        model.attach(*planted.codes(rng), vectors)


@pytest.mark.invariant
def test_an_identity_holds_what_its_extractor_reads() -> None:
    def identity(**changes: Any) -> dict[str, Any]:
        return ModelConfig.model_validate(changes).identity()

    kser = identity()
    assert kser["extractor"] == "kser"
    assert kser["kser"] == {
        "dim": 32,
        "heads": 4,
        "layers": 1,
        "gate_hidden": 128,
        "dropout": 0.1,
        "network": 3,
    }
    assert not {"hein", "shuffle_knowledge"} & set(kser)
    assert kser == identity(hein={"shared": 5}, shuffle_knowledge=False)
    assert kser != identity(kser={"align": False})
    assert identity(kser={"certainty": True})["kser"] == kser["kser"] | {"certainty": True}
    assert kser == identity(kser={"chunks": "texts", "slice": 32})
    slices = identity(kser={"chunks": "slices", "slice": 32})
    assert slices["kser"] == kser["kser"] | {"chunks": "slices", "slice": 32}
    assert kser != identity(shuffle_knowledge=True)
    hein = identity(extractor="hein")
    assert hein == identity(extractor="hein", kser={"dim": 64})
    assert hein != identity(extractor="hein", hein={"shared": 5})
    assert identity(extractor="naive") == identity(extractor="naive", hein={"shared": 5})


@pytest.mark.invariant
def test_the_bare_backbone_is_the_same_beside_any_extractor() -> None:
    def bare(**changes: Any) -> str:
        model = ModelConfig.model_validate(changes)
        recipe = Recipe(model=model, training=TrainingConfig(), strategy="base", seed=0)
        return fingerprint(recipe.identity())

    found = {bare(**changes, shuffle_knowledge=s) for changes in VARIANTS.values() for s in (0, 1)}
    assert found == {bare()}
