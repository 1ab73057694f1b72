"""`lorecast run` on the embedded world with real vLLM, Ray, MLflow and HTTP: whole, then cached."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import lorecast as core
from tests.main_job import Finished, lorecast, world_run

_STAGES = ["prepare", "generate", "encode", "train", "train", "register"]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("main-job") / "workspace"


@pytest.fixture(scope="module")
def first(workspace: Path) -> Finished:
    return lorecast(*world_run(workspace), cwd=workspace.parent)


@pytest.fixture(scope="module")
def second(workspace: Path, first: Finished) -> Finished:
    return lorecast(*world_run(workspace), cwd=workspace.parent)


def test_first_run_makes_every_stage(first: Finished) -> None:
    assert first.code == 0, first.stderr
    assert [name for name, _ in first.stages()] == _STAGES
    assert not any(cached for _, cached in first.stages())


def test_second_run_is_cached_and_says_the_same(first: Finished, second: Finished) -> None:
    assert second.code == 0, second.stderr
    assert second.stages() == [(name, True) for name in _STAGES]
    assert second.events[-1] == first.events[-1]


def test_knowledge_was_really_generated(first: Finished, workspace: Path) -> None:
    table = pq.read_table(next((workspace / "generate").glob("*/knowledge.parquet"))).to_pandas()
    answered = table[table["status"] == "ok"]
    assert len(answered) / len(table) > 0.95
    assert set(answered["side"]) == {"item", "user"}
    assert (answered["output_tokens"] > 0).all()
    assert answered["text"].nunique() > 50


def test_knowledge_helps_even_after_three_epochs(first: Finished) -> None:
    (difference,) = first.events[-1]["differences"]
    assert difference["strategy"] == "all_parameters"
    assert difference["value"] > 0


def test_report_shows_prompts_figures_and_next_steps(first: Finished, workspace: Path) -> None:
    folder = Path(first.events[-1]["report"])
    text = (folder / "report.md").read_text()
    for expected in ("was asked, and said", "DIN + KSER", "95 % interval", "version 1", "curl"):
        assert expected in text
    assert (folder / "report.svg").read_text().lstrip().startswith("<svg")
    for plot in ("curves.png", "gates.png"):
        assert (folder / plot).read_bytes().startswith(b"\x89PNG")


def test_changing_the_model_keeps_data_and_texts(workspace: Path, second: Finished) -> None:
    words = ["train", *world_run(workspace, "model.mlp_hidden=[32]", "training.epochs=1")[1:]]
    changed = lorecast(*words, cwd=workspace.parent)
    assert changed.code == 0, changed.stderr
    assert changed.stages() == [
        ("prepare", True),
        ("generate", True),
        ("encode", True),
        ("train", False),
        ("train", False),
    ]


def test_half_written_stage_is_made_again(workspace: Path, second: Finished) -> None:
    (manifest,) = (workspace / "encode").glob("*/manifest.json")
    manifest.unlink()
    again = lorecast(*world_run(workspace), cwd=workspace.parent)
    assert again.code == 0, again.stderr
    assert [name for name, cached in again.stages() if not cached] == ["encode"]


def test_the_registered_bundle_scores_by_itself(workspace: Path, second: Finished) -> None:
    (bundle,) = (workspace / "register").glob("*/bundle")
    scorer = core.load(bundle)
    known = scorer.score(["u0001", "u0001"], ["f0001", "f0002"])
    assert known[0] != known[1]
    assert np.isfinite(scorer.score(["no such user"], ["no such film"])).all()


def test_json_result_names_the_model(first: Finished) -> None:
    registered = first.events[-1]["registered"]
    assert registered["model_name"] == "lorecast-world"
    assert {"challenger", "champion"} <= set(registered["aliases"])
    assert registered["tracking_uri"].startswith("sqlite:")
