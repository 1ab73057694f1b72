"""Training under a real Ray Train worker group, on the tiny dataset."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from lorecast.artifacts import Artifact
from lorecast.config import ExperimentConfig, ModelConfig, Strategy, load_config
from lorecast.data.batches import load_samples
from lorecast.data.dataset import Dataset, FeatureSchema
from lorecast.encoding.vectors import VectorsTable
from lorecast.errors import EncodingError, LeakageError
from lorecast.jobs import train, workers
from lorecast.jobs.console import Console
from lorecast.lifecycle.bundle import Bundle, write_bundle
from lorecast.models.click_model import ClickModel
from lorecast.models.feature_tables import feature_tables
from lorecast.models.inputs import Batch
from lorecast.models.knowledge import KnowledgeShape
from lorecast.training.loop import predict
from lorecast.training.metrics import Metrics
from tests.small_bundle import write_vectors
from tests.tiny_dataset import write_tiny_dataset

pytestmark = pytest.mark.usefixtures("ray_cluster")
BOTH: Sequence[tuple[Strategy, int]] = (("base", 0), ("all_parameters", 0))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("train")


@pytest.fixture(scope="module")
def dataset(workspace: Path) -> Dataset:
    return write_tiny_dataset(workspace, num_users=120)


@pytest.fixture(scope="module")
def vectors(workspace: Path, dataset: Dataset) -> VectorsTable:
    return write_vectors(workspace, dataset)


@pytest.fixture(scope="module")
def trained(workspace: Path, dataset: Dataset, vectors: VectorsTable) -> list[Artifact]:
    return train.run_all(_config(workspace), dataset, vectors, BOTH, Console(quiet=True))


def _config(workspace: Path, *overrides: str) -> ExperimentConfig:
    return load_config(
        None,
        [
            "name=tiny",
            f"compute.workspace={workspace}",
            "compute.threads=1",
            "model.embedding_dim=8",
            "training.epochs=3",
            "training.batch_size=128",
            *overrides,
        ],
    )


def test_artifacts_hold_everything_a_scorer_needs(
    trained: list[Artifact], dataset: Dataset, vectors: VectorsTable
) -> None:
    for artifact, store in zip(trained, (None, vectors), strict=True):
        card = json.loads((artifact.path / "model.json").read_text())
        shape = KnowledgeShape.from_dict(card["knowledge"]) if card["knowledge"] else None
        model = ClickModel(
            ModelConfig.model_validate(card["config"]), FeatureSchema(**card["schema"]), shape
        )
        model.load_state_dict(load_file(artifact.path / "weights.safetensors"))
        model.attach(*feature_tables(dataset), store)
        samples = load_samples(dataset, "test")
        written = pq.read_table(artifact.path / "scores.parquet").to_pandas()
        np.testing.assert_array_equal(written["item_row"], samples.item_row_B)
        np.testing.assert_array_equal(written["label"], samples.label_B)
        torch.set_num_threads(1)
        np.testing.assert_allclose(predict(model, Batch.of(samples)), written["score"], atol=1e-6)
        found = Metrics.of(written["user_row"], written["label"], written["score"])
        assert artifact.facts["metrics"]["test"] == vars(found)
        assert artifact.facts["parameters"] == sum(p.numel() for p in model.parameters())


def test_artifacts_show_how_training_went(trained: list[Artifact]) -> None:
    base, kser = trained
    for artifact, strategy in zip(trained, ("base", "all_parameters"), strict=True):
        facts = artifact.facts
        assert (facts["strategy"], facts["seed"]) == (strategy, 0)
        epochs = json.loads((artifact.path / "curves.json").read_text())
        assert len(epochs) == facts["epochs"] <= 3
        assert epochs[facts["best_epoch"] - 1]["valid"] == facts["metrics"]["valid"]
        assert (artifact.path / "curves.png").exists()
    assert not (base.path / "gates.json").exists()
    gates = json.loads((kser.path / "gates.json").read_text())
    assert [(g["side"], g["field"], g["factor"]) for g in gates] == [
        ("item", "facts", "mood"),
        ("item", "facts", "theme"),
        ("user", "taste", "mood"),
    ]
    assert all(0 < gate["mean"] < 2 for gate in gates)
    assert (kser.path / "gates.png").exists()


def test_an_extractor_is_trained_for_the_backbone_of_its_seed(
    workspace: Path, dataset: Dataset, vectors: VectorsTable
) -> None:
    config = _config(workspace, "training.learning_rate=0.002")
    [only] = train.run_all(config, dataset, vectors, [("extractor_only", 0)], Console(quiet=True))
    base = train.run(config, dataset, None, "base", 0, Console(quiet=True))
    assert only.manifest["inputs"]["base"] == base.fingerprint, "it was trained first"
    theirs, ours = (load_file(each.path / "weights.safetensors") for each in (base, only))
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)
    assert only.facts["trained_parameters"] < only.facts["parameters"]
    assert only.facts["metrics"]["valid"]["auc"] >= base.facts["metrics"]["valid"]["auc"]


def test_a_second_run_trains_nothing(
    trained: list[Artifact],
    workspace: Path,
    dataset: Dataset,
    vectors: VectorsTable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(workers, "connect", lambda _: pytest.fail("Ray is not needed"))
    again = train.run_all(_config(workspace), dataset, vectors, BOTH, Console(quiet=True))
    assert [a.fingerprint for a in again] == [a.fingerprint for a in trained]


def test_two_workers_train_as_well_as_one(
    trained: list[Artifact], tmp_path: Path, dataset: Dataset
) -> None:
    config = _config(tmp_path, "compute.train_workers=2")
    together = train.run(config, dataset, None, "base", 0, Console(quiet=True))
    found, alone = (a.facts["metrics"]["test"]["auc"] for a in (together, trained[0]))
    assert found == pytest.approx(alone, abs=0.03)
    assert len(list((tmp_path / "train").iterdir())) == 1


def test_vectors_of_another_dataset_are_refused(
    workspace: Path, vectors: VectorsTable, tmp_path: Path
) -> None:
    other = write_tiny_dataset(tmp_path, num_users=25)
    with pytest.raises(EncodingError, match="another dataset"):
        train.run(_config(workspace), other, vectors, "all_parameters", 0, Console(quiet=True))


def test_what_a_worker_raises_arrives_as_it_is_and_leaves_nothing_finished(
    workspace: Path, dataset: Dataset, tmp_path: Path
) -> None:
    late = write_vectors(tmp_path, dataset)
    np.save(late.path / "user_history_end.npy", dataset.history_end() + 2)
    with pytest.raises(LeakageError, match="has seen samples"):
        train.run(_config(workspace), dataset, late, "all_parameters", 7, Console(quiet=True))
    assert not list((workspace / "train").glob("*-s7-*/manifest.json"))
    assert not list(workspace.glob(".ray-train-*"))


def test_protocol_kar_says_that_the_test_part_chose(
    workspace: Path, dataset: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    config = _config(workspace, "training.protocol=kar")
    kar = train.run(config, dataset, None, "base", 0, Console())
    told = " ".join(capsys.readouterr().out.split())
    assert "training.protocol is 'kar'" in told
    assert "chosen on the test part" in told
    assert "-base-s0-kar-" in kar.path.name
    facts = kar.facts
    assert facts["protocol"] == "kar"
    epochs = json.loads((kar.path / "curves.json").read_text())
    assert facts["metrics"]["test"]["auc"] == max(epoch["valid"]["auc"] for epoch in epochs)
    honest = train.run(_config(workspace), dataset, None, "base", 0, Console(quiet=True))
    assert honest.facts["protocol"] == "honest"
    rows = [pq.read_table(a.path / "scores.parquet", columns=["label"]) for a in (kar, honest)]
    assert rows[0].equals(rows[1]), "both are measured on the test part"


def test_an_extractor_is_taken_from_another_backbone(
    trained: list[Artifact], workspace: Path, dataset: Dataset, vectors: VectorsTable
) -> None:
    source = trained[1]
    config = _config(workspace, "model.backbone=dcnv2", f"model.extractor_from={source.path}")
    ours = train.run(config, dataset, vectors, "all_parameters", 0, Console(quiet=True))
    assert ours.manifest["inputs"]["extractor"] == source.fingerprint
    theirs, weights = (load_file(a.path / "weights.safetensors") for a in (source, ours))
    taken = [name for name in theirs if name.startswith("extractor.")]
    assert taken
    assert all(torch.equal(theirs[name], weights[name]) for name in taken)
    assert torch.equal(theirs["features.table.weight"], weights["asking.table.weight"])
    assert 0 < ours.facts["trained_parameters"] < ours.facts["parameters"]


@pytest.mark.invariant
def test_a_named_backbone_is_built_on_frozen_or_not(
    trained: list[Artifact], workspace: Path, dataset: Dataset, vectors: VectorsTable
) -> None:
    source = trained[0]
    config = _config(workspace, f"training.backbone_from={source.path}", "training.epochs=1")
    before = set((workspace / "train").glob("*-base-*"))
    models: list[tuple[Strategy, int]] = [("extractor_only", 5), ("all_parameters", 5)]
    only, everything = train.run_all(config, dataset, vectors, models, Console(quiet=True))
    assert set((workspace / "train").glob("*-base-*")) == before, "no other backbone is trained"
    theirs, ours = (load_file(each.path / "weights.safetensors") for each in (source, only))
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)
    for artifact in (only, everything):
        assert artifact.manifest["inputs"]["base"] == source.fingerprint
        found, start = (a.facts["metrics"]["valid"]["auc"] for a in (artifact, source))
        assert found >= start, "the start is a candidate"
    facts = everything.facts
    assert facts["trained_parameters"] == facts["parameters"] == only.facts["parameters"]
    folder = workspace / "everything"
    write_bundle(folder, everything, dataset, vectors, prestore=True)
    bundle = Bundle.open(folder)
    samples = load_samples(dataset, "test")
    written = pq.read_table(everything.path / "scores.parquet")["score"]
    served = predict(bundle.load_model(bundle.open_knowledge()), Batch.of(samples))
    np.testing.assert_allclose(served, written, atol=1e-5)
