"""SeLLa's stages under Ray: made once, shared among methods, evaluated side by side."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from lorecast.artifacts import MANIFEST, Artifact
from lorecast.config import ExperimentConfig, load_config
from lorecast.data.batches import load_samples
from lorecast.data.dataset import Dataset
from lorecast.errors import ConfigError, TrainingError
from lorecast.jobs import sella
from lorecast.jobs.arms import arms_of
from lorecast.jobs.console import Console
from lorecast.jobs.evaluate import evaluate, read
from lorecast.jobs.pipeline import Pipeline
from lorecast.jobs.sella_plans import Model, Plans
from tests.sella.tiny_llm import write_tiny_llm
from tests.tiny_dataset import write_tiny_dataset

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sella")


@pytest.fixture(scope="module")
def dataset(workspace: Path) -> Dataset:
    return write_tiny_dataset(workspace, num_users=60)


@pytest.fixture(scope="module")
def llm(workspace: Path) -> Path:
    return write_tiny_llm(workspace / "llm")


@pytest.fixture
def pipeline(
    workspace: Path, dataset: Dataset, llm: Path, monkeypatch: pytest.MonkeyPatch
) -> Pipeline:
    """Of the tiny dataset instead of a prepared one."""
    monkeypatch.setattr(Pipeline, "dataset", property(lambda _: dataset))
    return Pipeline(_config(workspace, llm), Console(quiet=True))


def _config(workspace: Path, llm: Path, *overrides: str) -> ExperimentConfig:
    small = "learning_rate: 0.01, batch_size: 64, checks: 2"
    return load_config(
        None,
        [
            "name=tiny",
            f"compute.workspace={workspace}",
            "compute.threads=1",
            f"sella.model={llm}",
            "sella.methods=[mf,text,collm,sella]",
            "sella.lora.rank=4",
            "sella.align={dim: 8, hidden: 16, epochs: 3, batch_size: 128}",
            f"sella.tune={{{small}}}",
            f"sella.guide={{{small}}}",
            *overrides,
        ],
    )


def test_methods_are_trained_scored_and_cached(
    pipeline: Pipeline, workspace: Path, dataset: Dataset
) -> None:
    trained = sella.train(pipeline)
    assert list(trained) == ["mf", "text", "collm", "sella"]
    test = load_samples(dataset, "test")
    for of_method in trained.values():
        scores = pq.read_table(of_method[0].artifact.path / "scores.parquet")
        np.testing.assert_array_equal(scores["item_row"], test.item_row_B)
        assert np.ptp(scores["score"].to_numpy()) > 1e-4
    made = sorted(path for path in workspace.glob(f"sella-*/*/{MANIFEST}"))
    stages = [path.parents[1].name for path in made]
    assert {stage: stages.count(stage) for stage in stages} == {
        "sella-tune": 1,
        "sella-vectors": 1,
        "sella-align": 2,
        "sella-guide": 2,
        "sella-score": 4,
    }
    times = [path.stat().st_mtime_ns for path in made]
    sella.train(Pipeline(pipeline.config, Console(quiet=True)))
    assert [path.stat().st_mtime_ns for path in made] == times, "all cached"
    assert not list(workspace.glob("sella-*/.checkpoints/*"))


def test_methods_are_arms_of_an_evaluation(pipeline: Pipeline) -> None:
    arms = tuple(arms_of("", pipeline.config, Console(quiet=True)))
    evaluation = read(evaluate(arms, Console(quiet=True), resamples=100))
    assert evaluation.reference == "mf"
    assert [arm.name for arm in evaluation.arms] == ["mf", "text", "collm", "sella"]
    assert evaluation.arms[1].model == "language model alone (TALLRec)"
    parts = {(part.family, part.name): part for part in evaluation.slices}
    assert {family for family, name in parts if name == "warm"} == {"users", "items", "pairs"}
    items = parts["items", "warm"]
    assert parts["pairs", "warm"].rows == 0, "users are split, so all of the test are cold"
    for of_arm in items.measured:
        assert {"auc", "uauc"} <= set(of_arm.figures)


def test_a_stage_depends_on_what_it_reads_and_nothing_else(
    workspace: Path, dataset: Dataset, llm: Path
) -> None:
    def fingerprints(*overrides: str) -> dict[str, str]:
        plans = Plans(_config(workspace, llm, *overrides), dataset)
        model = Model("sella", 0)
        specs = {
            "tune": plans.tune(0).spec,
            "vectors": plans.vectors(0),
            "align": plans.align(0, model.switches).spec,
            "mf": plans.align(0, Model("mf", 0).switches).spec,
            "guide": plans.guide(model).spec,
            "collm": plans.guide(Model("collm", 0)).spec,
        }
        return {name: spec.fingerprint for name, spec in specs.items()}

    before = fingerprints()
    changes = {
        "sella.methods=[sella]": set(),
        "sella.score_batch=7": set(),
        "sella.gradient_checkpointing=true": set(),
        "sella.sharding=fsdp": set(),
        "sella.guide.learning_rate=0.02": {"guide", "collm"},
        "sella.align.temperature=0.3": {"align", "guide"},
        "sella.align.dim=4": {"align", "mf", "guide", "collm"},
        "sella.prompt.warm=' and {token}'": {"guide"},
        "sella.lora.rank=8": {"tune", "vectors", "align", "guide", "collm"},
        "sella.prompt.vector='A film: {title}'": {"vectors", "align", "guide"},
    }
    for override, expected in changes.items():
        after = fingerprints(override)
        assert {name for name in after if after[name] != before[name]} == expected, override


@pytest.mark.bad_input
def test_a_model_that_is_not_there_is_named(workspace: Path, dataset: Dataset, llm: Path) -> None:
    plans = Plans(_config(workspace, llm, "sella.model=/no/such/folder"), dataset)
    with pytest.raises(TrainingError, match=r"sella\.model: no folder /no/such"):
        plans.tune(0)


@pytest.mark.bad_input
def test_the_other_protocol_is_refused(pipeline: Pipeline, workspace: Path, llm: Path) -> None:
    config = _config(workspace, llm, "training.protocol=kar")
    with pytest.raises(ConfigError, match="sella has no such protocol"):
        sella.train(Pipeline(config, Console(quiet=True)))


@pytest.mark.slow
def test_two_workers_train_together(workspace: Path, pipeline: Pipeline, llm: Path) -> None:
    config = _config(
        workspace, llm, "name=two", "compute.train_workers=2", "sella.methods=[mf,sella]"
    )
    trained = sella.train(Pipeline(config, Console(quiet=True)))
    figures = trained["sella"][0].artifact.facts["metrics"]["valid"]
    assert 0.0 < figures["auc"] < 1.0
    assert Artifact.open(trained["sella"][0].artifact.path).facts["method"] == "sella"
