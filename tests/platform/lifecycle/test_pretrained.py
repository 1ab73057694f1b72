"""A trained backbone is found wherever it lies, and refused where it does not fit."""

from dataclasses import replace
from pathlib import Path

import pytest

from lorecast.artifacts import Artifact, StageSpec, build
from lorecast.config import load_config
from lorecast.data.dataset import Dataset
from lorecast.errors import ArtifactError, ConfigError, RegistryError
from lorecast.lifecycle.bundle import write_bundle
from lorecast.lifecycle.mlflow_registry import MLflowRegistry
from lorecast.lifecycle.pretrained import Pretrained, fetch
from lorecast.lifecycle.registry import InMemoryRegistry, Registry, RunRecord
from lorecast.training.recipe import Recipe
from tests.small_bundle import make_model, write_trained, write_vectors
from tests.tiny_dataset import write_tiny_dataset

RUN = RunRecord(name="a run", params={}, metrics={}, curves=[], tags={}, plots=[])


def recipe(*overrides: str) -> Recipe:
    words = ["training.strategies=[extractor_only]", "training.backbone_from=there", *overrides]
    config = load_config(None, words)
    return Recipe(model=config.model, training=config.training, strategy="extractor_only", seed=0)


@pytest.fixture
def workspace(tiny_dataset: Dataset) -> Path:
    return tiny_dataset.path.parents[1]


@pytest.fixture
def base(workspace: Path, tiny_dataset: Dataset) -> Artifact:
    return write_trained(workspace, make_model(tiny_dataset, None), tiny_dataset, None)


@pytest.mark.parametrize("kind", ["memory", "mlflow"])
def test_a_folder_a_bundle_a_version_and_a_run_are_one_model(
    kind: str,
    workspace: Path,
    tiny_dataset: Dataset,
    base: Artifact,
    mlflow_registry: MLflowRegistry,
) -> None:
    bundle, downloads = workspace / "bundle", workspace / "pretrained"
    write_bundle(bundle, base, tiny_dataset, None)
    registry: Registry = mlflow_registry if kind == "mlflow" else InMemoryRegistry()
    version = registry.add("pretrained", bundle, RUN)
    registry.set_alias(version, "champion")
    references = [
        str(base.path),
        str(bundle),
        "models:/pretrained@champion",
        "models:/pretrained/1",
        f"runs:/{version.run_id}/model",
    ]
    folders = [fetch(reference, registry, downloads) for reference in references]
    assert folders == [base.path, bundle, *[downloads / version.run_id] * 3]
    found = [Pretrained.open(folder) for folder in folders]
    for model in found:
        model.check(recipe(), tiny_dataset)
        assert (model.folder / "weights.safetensors").exists()
    assert {model.fingerprint for model in found} == {base.fingerprint}


@pytest.mark.bad_input
def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    registry = InMemoryRegistry()
    with pytest.raises(RegistryError, match="write runs:/RUN_ID/model"):
        fetch("runs:/../elsewhere/model", registry, tmp_path)
    with pytest.raises(RegistryError, match="no model 'gone'"):
        fetch("models:/gone@champion", registry, tmp_path)
    with pytest.raises(ArtifactError, match="no such artifact"):
        Pretrained.open(tmp_path / "none")
    with build(tmp_path, StageSpec(stage="encode", name="x", identity={})) as draft:
        pass
    with pytest.raises(ConfigError, match=r"training\.backbone_from: .*an output of `encode`"):
        Pretrained.open(draft.path)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model.backbone=dcnv2"], r"is din, and model\.backbone is dcnv2"),
        (["model.embedding_dim=8"], r"has model\.embedding_dim 32, and here it is 8"),
        (["model.mlp_hidden=[64]"], r"has model\.mlp_hidden \[200, 80\], and here it is \[64\]"),
        (["training.protocol=kar"], r"is of another training\.protocol: honest"),
    ],
)
def test_another_backbone_is_refused(
    tiny_dataset: Dataset, base: Artifact, overrides: list[str], said: str
) -> None:
    with pytest.raises(ConfigError, match=rf"training\.backbone_from: the model in there {said}"):
        Pretrained.open(base.path).check(recipe(*overrides), tiny_dataset)


@pytest.mark.bad_input
def test_another_dataset_is_refused_by_what_differs(
    tiny_dataset: Dataset, base: Artifact, tmp_path: Path
) -> None:
    larger = write_tiny_dataset(tmp_path, num_users=31)
    with pytest.raises(ConfigError, match="dataset: num_users is 30 there, and 31 here; train one"):
        Pretrained.open(base.path).check(recipe(), larger)
    with pytest.raises(ConfigError, match="its rows or its split are not"):
        Pretrained.open(base.path).check(recipe(), replace(tiny_dataset, fingerprint="x"))


@pytest.mark.bad_input
def test_a_model_with_knowledge_is_no_backbone(workspace: Path, tiny_dataset: Dataset) -> None:
    vectors = write_vectors(workspace, tiny_dataset)
    model = write_trained(workspace, make_model(tiny_dataset, vectors), tiny_dataset, vectors)
    with pytest.raises(ConfigError, match=r"of strategy 'all_parameters'.*'base'"):
        Pretrained.open(model.path).check(recipe(), tiny_dataset)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model.extractor=hein"], r"training\.backbone_from names .*model\.extractor must be"),
        (["model.extractor_from=far"], "drop one of them"),
        (["model.item_field=true"], r"training\.backbone_from .*model\.item_field rules out"),
    ],
)
def test_all_parameters_from_it_must_fit_as_well(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config(None, ["training.backbone_from=there", *overrides])


def test_the_place_is_no_part_of_the_identity() -> None:
    there, elsewhere = recipe(), recipe("training.backbone_from=elsewhere")
    assert there.identity() == elsewhere.identity()
    assert there.is_pretrained
    assert there.keeps_backbone
    assert not there.base.is_pretrained
    assert not there.base.is_injected
    started = replace(there, strategy="all_parameters")
    assert started.is_injected
    assert not started.keeps_backbone
