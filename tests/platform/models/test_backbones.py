"""The contract of every backbone; a new one joins by its name in the registry."""

from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from lorecast.artifacts import fingerprint
from lorecast.config import ModelConfig, load_config
from lorecast.config import model as model_config
from lorecast.config.model import WITH_MLP, Injection
from lorecast.data.dataset import FeatureSchema
from lorecast.errors import ConfigError
from lorecast.models.backbones.deepfm import second_order
from lorecast.models.backbones.mf import MF
from lorecast.models.backbones.sasrec import SASRec
from lorecast.models.backbones.xdeepfm import CompressedInteraction
from lorecast.models.click_model import _BACKBONES, ClickModel
from lorecast.models.inputs import Batch, FieldCounts, Fields
from lorecast.models.pooled import pooled_fields
from tests import planted

COUNTS = FieldCounts(target=2, history=3, extra=2, dim=8, num_users=20)
READS = {name: {"target", "history", "extra"} for name in _BACKBONES} | {
    "mf": {"target", "user", "extra"}
}
"""What of the fields a backbone may know."""
CONFIGS = [ModelConfig(backbone=name) for name in _BACKBONES] + [
    ModelConfig.model_validate({"backbone": "dien", "dien": {"evolution": evolution}})
    for evolution in ("gru", "agru", "augru")
]
BACKBONES = pytest.mark.parametrize(
    "config",
    CONFIGS,
    ids=lambda c: f"dien-{c.dien.evolution}" if c.backbone == "dien" else c.backbone,
)


def _fields(num: int = 40, length: int = 6, counts: FieldCounts = COUNTS) -> Fields:
    """Random fields; some steps are padded, anywhere, and the first history is empty."""
    mask_BL = torch.rand(num, length) < 0.7
    mask_BL[0] = False
    return Fields(
        target_BNE=torch.randn(num, counts.target, counts.dim),
        history=planted.history(torch.randn(num, length, counts.history, counts.dim), mask_BL),
        extra_BXE=torch.randn(num, counts.extra, counts.dim),
        user_row_B=torch.randint(1, counts.num_users + 1, (num,)),
    )


def _backbone(config: ModelConfig, counts: FieldCounts = COUNTS, seed: int = 0) -> nn.Module:
    """A backbone with other than start values, so that biases and statistics matter."""
    torch.manual_seed(seed)
    backbone = _BACKBONES[config.backbone](config, counts)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    backbone.train()
    for _ in range(5):
        backbone(_fields(counts=counts))
    return backbone.eval()


def _take(fields: Fields, index: Tensor | slice) -> Fields:
    history = fields.history
    steps_BLME = history.steps().unflatten(2, (-1, fields.target_BNE.shape[2]))
    assert fields.user_row_B is not None
    return Fields(
        fields.target_BNE[index],
        planted.history(steps_BLME[index], history.mask_BL[index]),
        fields.extra_BXE[index],
        fields.user_row_B[index],
    )


def _with_steps(fields: Fields, change: Callable[[Tensor], Tensor]) -> Fields:
    """The fields with other steps, [B, L, M, E]."""
    steps_BLME = fields.history.steps().unflatten(2, (-1, fields.target_BNE.shape[2]))
    return replace(fields, history=planted.history(change(steps_BLME), fields.history.mask_BL))


def _same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-5)


def test_every_name_of_the_experiment_is_built() -> None:
    assert set(model_config.BACKBONES) == set(_BACKBONES)


@BACKBONES
def test_one_finite_logit_a_sample_and_every_parameter_learns(config: ModelConfig) -> None:
    backbone = _backbone(config).train()
    logit_B = backbone(_fields())
    assert logit_B.shape == (40,)
    assert logit_B.isfinite().all()
    logit_B.square().sum().backward()
    silent = [n for n, p in backbone.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


@pytest.mark.invariant
@BACKBONES
def test_batch_size_and_order_do_not_change_a_score(config: ModelConfig) -> None:
    backbone, fields = _backbone(config), _fields()
    together = backbone(fields)
    alone = torch.cat([backbone(_take(fields, slice(i, i + 1))) for i in range(40)])
    _same(alone, together)
    order = torch.randperm(40)
    _same(backbone(_take(fields, order)), together[order])


@pytest.mark.invariant
@BACKBONES
def test_padding_does_not_change_a_score(config: ModelConfig) -> None:
    backbone, fields = _backbone(config), _fields()
    history = fields.history
    padding = {"place_BL": (3, 1), "level_BL": (3, 1), "mask_BL": (3, 1)}
    longer = {name: F.pad(getattr(history, name), pad) for name, pad in padding.items()}
    padded = replace(fields, history=replace(history, **longer))
    _same(backbone(padded), backbone(fields))


@BACKBONES
def test_what_a_backbone_reads_changes_the_score(config: ModelConfig) -> None:
    backbone, fields = _backbone(config), _fields()
    before = backbone(fields)
    assert fields.user_row_B is not None
    for kind, moved in {
        "target": replace(fields, target_BNE=fields.target_BNE + 1),
        "history": _with_steps(fields, lambda steps_BLME: steps_BLME + 1),
        "extra": replace(fields, extra_BXE=fields.extra_BXE + 1),
        "user": replace(fields, user_row_B=fields.user_row_B % COUNTS.num_users + 1),
    }.items():
        changed = (backbone(moved) - before).abs() > 1e-4
        if kind in READS[config.backbone]:
            assert changed[1:].float().mean() > 0.9, kind
        else:
            assert not changed.any(), kind


@BACKBONES
def test_works_without_extra_fields(config: ModelConfig) -> None:
    counts = COUNTS._replace(extra=0)
    backbone, fields = _backbone(config, counts), _fields(counts=counts)
    assert backbone(fields).isfinite().all()


@BACKBONES
def test_an_empty_batch_gets_no_scores(config: ModelConfig) -> None:
    assert _backbone(config)(_take(_fields(), slice(0))).shape == (0,)


@BACKBONES
def test_weights_are_the_whole_state(config: ModelConfig) -> None:
    backbone, other, fields = _backbone(config), _backbone(config, seed=1), _fields()
    assert not torch.allclose(other(fields), backbone(fields))
    other.load_state_dict(backbone.state_dict())
    torch.testing.assert_close(other(fields), backbone(fields), atol=0, rtol=0)


@BACKBONES
def test_learns_whether_target_and_taste_match(config: ModelConfig) -> None:
    """The history tells the taste, or where none is read the user, without fields of noise."""
    reads_history = "history" in READS[config.backbone]
    counts = COUNTS if reads_history else COUNTS._replace(target=1, extra=0)
    torch.manual_seed(0)
    backbone = _BACKBONES[config.backbone](config, counts)
    num, kinds = 512, 4
    fields = _fields(num, counts=counts)
    assert fields.user_row_B is not None
    item_B, taste_B = torch.randint(kinds, (2, num))
    if not reads_history:
        taste_B = fields.user_row_B % kinds
    label_B = (item_B == taste_B).float()
    meaning_2KE = torch.randn(2, kinds, counts.dim)
    fields.target_BNE[:, 0] = meaning_2KE[0, item_B]
    taste_BE = meaning_2KE[1, taste_B]

    def tell(steps_BLME: Tensor) -> Tensor:
        steps_BLME[:, :, 0] = taste_BE[:, None]
        return steps_BLME

    fields = _with_steps(fields, tell)
    known = fields.history.mask_BL.any(1)
    optimizer = torch.optim.AdamW(backbone.parameters(), lr=3e-3)
    losses = []
    for _ in range(100):
        loss = F.binary_cross_entropy_with_logits(backbone(fields)[known], label_B[known])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    share = label_B[known].mean()
    blind = -(share * share.log() + (1 - share) * (1 - share).log())
    assert losses[-1] < 0.6 * blind


@BACKBONES
def test_takes_what_kser_adds(config: ModelConfig, rng: np.random.Generator) -> None:
    samples, vectors = planted.world(rng, 30)
    model = ClickModel(config, planted.SCHEMA, planted.SHAPE).eval()
    model.attach(*planted.codes(rng), vectors)
    model.start_from_vectors()
    assert model(Batch.of(samples)).isfinite().all()


@pytest.mark.invariant
@pytest.mark.parametrize(
    "config",
    [
        config.model_copy(update={"injection": injection})
        for config in CONFIGS
        for injection in get_args(Injection)
        if injection != "widen" or config.backbone in WITH_MLP
    ],
    ids=lambda c: f"{c.backbone}-{c.dien.evolution}-{c.injection}",
)
def test_frozen_it_scores_as_before_until_kser_moves(
    config: ModelConfig, rng: np.random.Generator
) -> None:
    samples, vectors = planted.world(rng, 30)
    features = planted.codes(rng)
    bare = ClickModel(config, planted.SCHEMA, None).eval()
    bare.attach(*features, None)
    injected = ClickModel(config, planted.SCHEMA, planted.SHAPE, injected=True).eval()
    injected.attach(*features, vectors)
    injected.load_backbone(bare.state_dict())
    batch = Batch.of(samples)
    with torch.inference_mode():
        torch.testing.assert_close(injected(batch), bare(batch), atol=0, rtol=0)
    zeros = {name: p for name, p in injected.named_parameters() if p.requires_grad and not p.any()}
    injected(batch).sum().backward()
    moving = [name for name, p in zeros.items() if p.grad is not None and p.grad.any()]
    places = {"residual": "extractor.moves.", "widen": "join.", "logit": "join.2."}
    assert any(name.startswith(places[config.injection]) for name in moving)


def test_pooling_averages_real_steps_and_gives_zeros_for_none() -> None:
    fields = _fields(3, 4)
    steps_BLME = torch.randn(3, 4, COUNTS.history, COUNTS.dim)
    mask_BL = torch.tensor([[False] * 4, [False, True] * 2, [False, True] * 2])
    fields = replace(fields, history=planted.history(steps_BLME, mask_BL))
    history_BME = pooled_fields(fields)[:, COUNTS.target : COUNTS.target + COUNTS.history]
    assert not history_BME[0].any()
    torch.testing.assert_close(history_BME[1:], steps_BLME[1:, [1, 3]].mean(1))


@pytest.mark.parametrize("shifted", [False, True])
def test_a_history_maps_and_averages_what_its_steps_are(shifted: bool) -> None:
    fields = _fields(20, 5)
    history = fields.history
    if shifted:
        history = history.shifted(torch.randn(20, COUNTS.history * COUNTS.dim))
    steps_BLJ, mask_BL1 = history.steps(), history.mask_BL[:, :, None]
    weight_WJ, bias_W = torch.randn(4, steps_BLJ.shape[2]), torch.randn(4)
    _same(history.mapped(weight_WJ, bias_W), steps_BLJ @ weight_WJ.T + bias_W)
    _same(history.mean(), steps_BLJ.sum(1) / mask_BL1.sum(1).clamp(min=1))
    assert not steps_BLJ[~history.mask_BL].any()


def test_second_order_is_the_sum_over_pairs() -> None:
    field_BFE = torch.randn(5, 4, 3)
    product_BFF = field_BFE @ field_BFE.transpose(1, 2)
    torch.testing.assert_close(second_order(field_BFE), product_BFF.triu(1).sum((1, 2)))


def test_compressed_interaction_is_the_published_sum() -> None:
    torch.manual_seed(0)
    cross, field_BFE = CompressedInteraction(4, (5, 3)), torch.randn(6, 4, 7)
    maps_BHE, sums = field_BFE, []
    for weight_OP, (before, after) in zip(cross.weights_OP, [(4, 5), (5, 3)], strict=True):
        weight_OHF = weight_OP.view(after, before, 4)
        maps_BHE = torch.einsum("ohf,bhe,bfe->boe", weight_OHF, maps_BHE, field_BFE)
        sums.append(maps_BHE.sum(2))
    torch.testing.assert_close(cross(field_BFE), torch.cat(sums, dim=1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "config",
    [config for config in CONFIGS if config.backbone in ("dien", "sasrec")],
    ids=lambda config: f"{config.backbone}-{config.dien.evolution}",
)
def test_some_read_the_order_of_the_history(config: ModelConfig) -> None:
    backbone, fields = _backbone(config), _fields()
    history = fields.history
    turned = replace(
        fields,
        history=replace(
            history,
            place_BL=history.place_BL.flip(1),
            level_BL=history.level_BL.flip(1),
            mask_BL=history.mask_BL.flip(1),
        ),
    )
    changed = (backbone(turned) - backbone(fields)).abs() > 1e-4
    assert not changed[0]
    assert changed.float().mean() > 0.8


def test_mf_gives_a_known_user_a_vector_and_a_bias() -> None:
    backbone, fields = _backbone(ModelConfig(backbone="mf")), _fields()
    assert isinstance(backbone, MF)
    assert fields.user_row_B is not None
    with torch.no_grad():
        backbone.user.weight[0] = backbone.user_bias.weight[0] = 0  # as they start
    nobody = replace(fields, user_row_B=torch.zeros_like(fields.user_row_B))
    user_BE, bias_B1 = backbone.user(fields.user_row_B), backbone.user_bias(fields.user_row_B)
    own_B = (user_BE * fields.target_BNE.sum(1)).sum(1) + bias_B1.squeeze(1)
    _same(backbone(fields) - backbone(nobody), own_B)
    backbone(nobody).sum().backward()
    assert backbone.user.weight.grad is not None
    assert not backbone.user.weight.grad.any()


def test_sasrec_reads_no_step_before_its_time() -> None:
    backbone, fields = _backbone(ModelConfig(backbone="sasrec")), _fields()
    assert isinstance(backbone, SASRec)
    states: list[Tensor] = []
    backbone.blocks[0].register_forward_hook(lambda _module, _given, state: states.append(state))

    def change_last(steps_BLME: Tensor) -> Tensor:
        return torch.cat([steps_BLME[:, :-1], steps_BLME[:, -1:] + 1], dim=1)

    backbone(fields)
    backbone(_with_steps(fields, change_last))
    real_B = fields.history.mask_BL[:, -1]
    _same(states[1][:, :-1], states[0][:, :-1])
    assert not torch.allclose(states[1][real_B, -1], states[0][real_B, -1])


def test_sasrec_gives_old_steps_one_place() -> None:
    """With one block only places tell steps apart."""
    config = ModelConfig.model_validate(
        {"backbone": "sasrec", "sasrec": {"places": 3, "layers": 1}}
    )
    backbone, fields = _backbone(config), _fields()
    all_real_BL = torch.ones_like(fields.history.mask_BL)
    fields = replace(fields, history=replace(fields.history, mask_BL=all_real_BL))
    before = backbone(fields)
    old = _with_steps(fields, lambda steps_BLME: steps_BLME[:, [3, 1, 2, 0, 4, 5]])
    young = _with_steps(fields, lambda steps_BLME: steps_BLME[:, [0, 1, 2, 4, 3, 5]])
    _same(backbone(old), before)
    assert not torch.allclose(backbone(young), before, atol=1e-3)


@pytest.mark.parametrize("name", ["dcn", "dcnv2", "gdcn"])
def test_the_head_of_cross_networks_may_be_one_layer(name: str) -> None:
    kar, published, wide = (
        ModelConfig.model_validate({"backbone": name, "cross": cross})
        for cross in ({}, {"head_hidden": []}, {"head_hidden": [7]})
    )
    heads = [_BACKBONES[name](config, COUNTS).head for config in (kar, published, wide)]
    assert [len([m for m in head if isinstance(m, nn.Linear)]) for head in heads] == [3, 1, 2]
    assert kar.identity()["cross"] == {"layers": 3}
    assert published.identity()["cross"] == {"layers": 3, "head_hidden": []}


@pytest.mark.parametrize(
    ("name", "expected"), [("dcnv2", 309_345), ("fibinet", 264_909)], ids=["dcnv2", "fibinet"]
)
def test_as_many_parameters_as_counted_from_kars_code_on_movielens(
    name: str, expected: int
) -> None:
    schema = FeatureSchema(
        item_features={"genre": 18},
        user_features={},
        num_items=3706,
        num_users=6040,
        num_rating_levels=5,
    )
    model = ClickModel(ModelConfig.model_validate({"backbone": name}), schema, None)
    unknown_rows = 2 * 32  # there each of three tables has a row 0, here one row serves all
    assert sum(p.numel() for p in model.parameters()) + unknown_rows == expected


def test_keys_of_other_backbones_are_no_part_of_the_identity() -> None:
    """Artifacts of DIN outlive new backbones; this changes with KSER's `network` alone."""
    din = load_config().model.identity()
    assert list(din) == [
        "backbone",
        "embedding_dim",
        "attention_hidden",
        "mlp_hidden",
        "dropout",
        "extractor",
        "kser",
    ]
    assert fingerprint(din) == "7b8326e6c13d11ee90c3dc02d223814a"
    others = ["model.cross.layers=2", "model.dien.evolution=gru", "model.fignn.steps=3"]
    assert load_config(None, others).model.identity() == din
    for backbone, key in [
        ("dien", "dien.evolution=gru"),
        ("dcnv2", "cross.layers=2"),
        ("xdeepfm", "xdeepfm.maps=[20]"),
        ("autoint", "autoint.layers=1"),
        ("fignn", "fignn.steps=3"),
        ("finalnet", "mlp_hidden=[64]"),
        ("sasrec", "sasrec.places=3"),
        ("dcn", "cross.head_hidden=[]"),
    ]:
        plain = load_config(None, [f"model.backbone={backbone}"]).model.identity()
        changed = load_config(None, [f"model.backbone={backbone}", f"model.{key}"])
        assert changed.model.identity() != plain, backbone


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model.backbone=dcnv3", "model.backbone: no such backbone: there are din, .* mf, or"),
        ("model.backbone=my.module:", "model.backbone"),
        ("model.sasrec.heads=3", "model.sasrec.width must be a multiple"),
        ("model.autoint.heads=3", "model.autoint.width must be a multiple"),
        ("model.xdeepfm.maps=[]", "model.xdeepfm.maps"),
        ("model.dien.evolution=lstm", "model.dien.evolution"),
    ],
)
def test_a_bad_key_is_named(override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config(None, [override])
