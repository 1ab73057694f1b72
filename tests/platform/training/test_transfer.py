"""An extractor trained with one backbone serves another, frozen bit for bit."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lorecast.artifacts import Artifact, StageSpec, build, write_json
from lorecast.config import ModelConfig, TrainingConfig, load_config
from lorecast.errors import ArtifactError, ConfigError
from lorecast.models.click_model import ClickModel
from lorecast.training.loop import fit, predict
from lorecast.training.recipe import Recipe
from lorecast.training.splits import Labelled
from lorecast.training.transfer import extractor_source
from tests import planted

DIN = ModelConfig(embedding_dim=8)
DCNV2 = ModelConfig(embedding_dim=8, backbone="dcnv2", extractor_from="there")
TRAINING = TrainingConfig(epochs=6, batch_size=256, learning_rate=3e-3)


def made(config: ModelConfig, vectors: planted.Vectors, seed: int) -> ClickModel:
    torch.manual_seed(seed)
    model = ClickModel(config, planted.SCHEMA, planted.SHAPE)
    model.attach(*planted.codes(np.random.default_rng(1)), vectors)
    return model


@pytest.mark.invariant
def test_from_din_to_dcnv2_it_helps_and_stays_as_it_is() -> None:
    samples, vectors = planted.world(np.random.default_rng(0), 12_000)
    names = ("train", "valid", "test")
    train, valid, test = (
        Labelled.of(part, name) for part, name in zip(planted.parts(samples), names, strict=True)
    )
    din = made(DIN, vectors, seed=0)
    din.start_from_vectors()
    fit(din, train, valid, TRAINING, seed=0)
    source = {name: value.clone() for name, value in din.state_dict().items()}

    model = made(DCNV2, vectors, seed=1)
    model.load_extractor(source)
    model.train()
    assert model.backbone.training
    assert model.asking is not None
    assert not model.asking.training
    model(train.rows.slice(0, 256)).square().sum().backward()
    learning = {name for name, p in model.named_parameters() if p.grad is not None}
    assert {name.partition(".")[0] for name in learning} == {"features", "backbone"}

    fit(model, train, valid, TRAINING, seed=1)
    after = model.state_dict()
    for name, value in source.items():
        if not name.startswith("backbone."):
            assert torch.equal(after[name.replace("features.", "asking.", 1)], value), name
    assert not torch.equal(after["features.table.weight"], source["features.table.weight"])
    assert test.metrics(predict(model, test.rows)).auc > 0.7
    for ours, theirs in zip(model.gates(test.rows), din.eval().gates(test.rows), strict=True):
        assert (ours - theirs).abs().max() < 1e-6

    again = made(DCNV2, vectors, seed=2)
    again.load_state_dict(after)
    np.testing.assert_array_equal(predict(again, test.rows), predict(model, test.rows))


def write_source(workspace: Path, config: ModelConfig, **changes: str) -> Artifact:
    said = {"stage": "train", "strategy": "all_parameters", "dataset": "d", "vectors": "v"}
    said |= changes
    inputs = {name: said[name] for name in ("dataset", "vectors")}
    spec = StageSpec(stage=said["stage"], name="din", identity=dict(said), inputs=inputs)
    with build(workspace, spec) as draft:
        write_json(draft.path / "model.json", {"config": config.model_dump(mode="json")})
        draft.facts.update(strategy=said["strategy"], protocol=said.get("protocol", "honest"))
    return Artifact.open(draft.path)


def recipe(folder: Path, *overrides: str) -> Recipe:
    words = ["model.backbone=dcnv2", f"model.extractor_from={folder}", *overrides]
    config = load_config(None, words)
    return Recipe(model=config.model, training=config.training, strategy="all_parameters", seed=0)


def test_the_source_is_another_backbones_model(tmp_path: Path) -> None:
    source = write_source(tmp_path, ModelConfig(backbone="gone:Backbone"))
    wanted = recipe(source.path)
    assert extractor_source(wanted, "d", "v").fingerprint == source.fingerprint
    assert wanted.is_transfer
    assert not wanted.base.is_transfer
    assert "extractor_from" not in wanted.identity()["model"]


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("config", "changes", "said"),
    [
        (ModelConfig(), {"stage": "encode"}, "an output of `encode`"),
        (ModelConfig(), {"strategy": "base"}, "of strategy 'base', which has no extractor"),
        (ModelConfig(), {"dataset": "x"}, "trained on another dataset"),
        (ModelConfig(), {"vectors": "x"}, "trained on another vectors"),
        (ModelConfig(), {"protocol": "kar"}, r"another training\.protocol"),
        (ModelConfig(extractor_from="far"), {}, "has its extractor from far"),
        (ModelConfig(embedding_dim=8), {}, r"model\.embedding_dim is 32 here, and 8"),
        (ModelConfig(extractor="hein"), {}, r"model\.extractor is 'kser' here"),
    ],
)
def test_a_source_that_does_not_fit_is_refused(
    tmp_path: Path, config: ModelConfig, changes: dict[str, str], said: str
) -> None:
    source = write_source(tmp_path, config, **changes)
    with pytest.raises(ConfigError, match=rf"model\.extractor_from: .*({said})"):
        extractor_source(recipe(source.path), "d", "v")


@pytest.mark.bad_input
def test_a_folder_without_a_model_and_strategies_that_train_one(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such artifact"):
        extractor_source(recipe(tmp_path / "none"), "d", "v")
    with pytest.raises(ConfigError, match=r"model\.extractor_from names a trained one"):
        recipe(tmp_path, "training.strategies=[extractor_only]")
    with pytest.raises(ConfigError, match="drop one of them"):
        recipe(tmp_path, "model.item_field=true")
