"""Re-rankers as Ray tasks, on the tiny dataset."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lorecast.artifacts import Artifact
from lorecast.config import ExperimentConfig, load_config
from lorecast.data.dataset import Dataset
from lorecast.encoding.vectors import VectorsTable
from lorecast.errors import ConfigError, EncodingError, LeakageError
from lorecast.jobs import rerank
from lorecast.jobs.console import Console
from tests.small_bundle import write_vectors
from tests.tiny_dataset import write_tiny_dataset

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rerank")


@pytest.fixture(scope="module")
def dataset(workspace: Path) -> Dataset:
    return write_tiny_dataset(workspace, num_users=60)


@pytest.fixture(scope="module")
def vectors(workspace: Path, dataset: Dataset) -> VectorsTable:
    return write_vectors(workspace, dataset)


def _config(workspace: Path, *overrides: str) -> ExperimentConfig:
    return load_config(
        None,
        [
            "name=tiny",
            f"compute.workspace={workspace}",
            "training.seeds=[0,1]",
            "model.embedding_dim=8",
            "reranking.epochs=2",
            "reranking.batch_size=16",
            *overrides,
        ],
    )


@pytest.fixture(scope="module")
def made(workspace: Path, dataset: Dataset, vectors: VectorsTable) -> list[Artifact]:
    return rerank.run_all(_config(workspace), dataset, vectors, Console(quiet=True))


def test_one_artifact_a_strategy_and_seed(
    made: list[Artifact], dataset: Dataset, vectors: VectorsTable
) -> None:
    assert [(a.facts["strategy"], a.facts["seed"]) for a in made] == [
        ("base", 0),
        ("all_parameters", 0),
        ("base", 1),
        ("all_parameters", 1),
    ]
    base, with_knowledge, *_ = made
    assert base.manifest["inputs"] == {"dataset": dataset.fingerprint}
    assert with_knowledge.manifest["inputs"]["vectors"] == Artifact.open(vectors.path).fingerprint
    for artifact in made:
        assert artifact.path.parent.name == "rerank"
        assert {"scores.parquet", "weights.safetensors", "curves.json"} <= {
            file.name for file in artifact.path.iterdir()
        }


def test_a_second_run_trains_only_what_is_new(
    made: list[Artifact],
    workspace: Path,
    dataset: Dataset,
    vectors: VectorsTable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one_more = ("training.strategies=[base]", "training.seeds=[0,1,2]")
    grown = rerank.run_all(_config(workspace, *one_more), dataset, None, Console(quiet=True))
    assert [a.fingerprint for a in grown[:2]] == [made[0].fingerprint, made[2].fingerprint]
    monkeypatch.setattr(rerank, "connect", lambda _: pytest.fail("Ray is not needed"))
    again = rerank.run_all(
        _config(workspace, "model.backbone=dcnv2"), dataset, vectors, Console(quiet=True)
    )
    assert [a.fingerprint for a in again] == [a.fingerprint for a in made]


def _reported(
    capsys: pytest.CaptureFixture[str], config: ExperimentConfig, artifacts: list[Artifact]
) -> dict[str, Any]:
    rerank.report(config, artifacts, Console(as_json=True))
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return {event["event"]: event for event in events}


def test_the_report_pairs_seeds(
    made: list[Artifact], workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = _reported(capsys, _config(workspace), made)
    figures = {figure["metric"]: figure for figure in told["result"]["figures"]}
    assert list(figures) == [f"{m}@{k}" for m in ("map", "ndcg", "clicks") for k in (1, 3, 5, 7)]
    values = [a.facts["metrics"]["test"]["map@5"] for a in made]
    assert figures["map@5"]["by_seed"] == {"base": values[::2], "all_parameters": values[1::2]}
    gain = np.subtract(values[1::2], values[::2])
    assert figures["map@5"]["difference"]["mean"] == pytest.approx(gain.mean())
    assert figures["map@5"]["difference"]["seeds"] == 2
    line = told["table"]["lines"][2]
    assert line["base"] == f"{np.mean(values[::2]):.4f} ± {np.std(values[::2], ddof=1):.4f}"
    assert line["difference"].startswith(f"{gain.mean():+.4f} ± ")


def test_the_report_of_one_seed_or_strategy_has_no_spread(
    made: list[Artifact], workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = _config(workspace, "training.seeds=[0]")
    line = _reported(capsys, config, made[:2])["table"]["lines"][0]
    assert not any("±" in cell for cell in line.values())
    assert "difference" in line
    config = _config(workspace, "training.seeds=[0]", "training.strategies=[base]")
    assert "difference" not in _reported(capsys, config, made[:1])["table"]["lines"][0]


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("override", "fix"),
    [
        (
            "training.strategies=[base,extractor_only]",
            r"training\.strategies=\[base,all_parameters\]",
        ),
        ("training.protocol=kar", r"training\.protocol=honest"),
        ("model.extractor_from=there", r"model\.extractor_from.*drop it"),
        ("training.backbone_from=there", r"training\.backbone_from.*drop it"),
    ],
)
def test_what_it_does_not_have_is_refused_before_any_work(
    tmp_path: Path, override: str, fix: str
) -> None:
    with pytest.raises(ConfigError, match=fix):
        rerank.run(_config(tmp_path, override), Console(quiet=True))
    assert not list(tmp_path.iterdir())


@pytest.mark.bad_input
def test_vectors_of_another_dataset_are_refused(vectors: VectorsTable, tmp_path: Path) -> None:
    other = write_tiny_dataset(tmp_path, num_users=45)
    with pytest.raises(EncodingError, match="another dataset"):
        rerank.run_all(_config(tmp_path), other, vectors, Console(quiet=True))


def test_what_a_task_raises_arrives_as_it_is(tmp_path: Path, dataset: Dataset) -> None:
    late = write_vectors(tmp_path, dataset)
    np.save(late.path / "user_history_end.npy", dataset.history_end() + 2)
    config = _config(tmp_path, "training.strategies=[all_parameters]")
    with pytest.raises(LeakageError, match="has seen samples"):
        rerank.run_all(config, dataset, late, Console(quiet=True))
    assert not list((tmp_path / "rerank").glob("*/manifest.json"))
