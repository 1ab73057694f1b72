"""The command: mistakes become one sentence on stderr and an exit code, nothing else."""

import re
import sys
from pathlib import Path
from typing import Protocol

import pytest

from lorecast.errors import LorecastError
from lorecast.jobs.cli import main
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.bad_input


class Fails(Protocol):
    def __call__(self, *words: str, code: int) -> str: ...


@pytest.fixture
def fails(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    ray_cluster: None,
) -> Fails:
    """Calls `lorecast …` in an empty folder; returns its one sentence, having checked the code."""
    monkeypatch.chdir(tmp_path)

    def call(*words: str, code: int) -> str:
        monkeypatch.setattr(sys, "argv", ["lorecast", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        assert ended.value.code == code, captured.err
        assert "Traceback" not in captured.err
        return captured.err

    return call


def test_exit_codes_are_distinct_a_branch_and_drawn_in_the_tree() -> None:
    from lorecast import errors

    branches = LorecastError.__subclasses__()
    codes = [branch.exit_code for branch in branches]
    assert len(set(codes)) == len(codes)
    drawn = dict(re.findall(r"[├└]── (\w+) +(\d+)", errors.__doc__ or ""))
    for branch in branches:
        assert drawn[branch.__name__] == str(branch.exit_code)


def test_unknown_key_names_the_nearest(fails: Fails) -> None:
    error = fails("prepare", "dataset.history_lenght=3", code=2)
    assert "did you mean dataset.history_length?" in error


def test_unknown_command_and_missing_file(fails: Fails) -> None:
    assert "No such command" in fails("trian", code=2)
    assert "no such file" in fails("run", "absent.yaml", code=2)


def test_missing_folder_of_tables(fails: Fails) -> None:
    error = fails("prepare", "dataset.source=movielens", "dataset.path=absent", code=3)
    assert "absent" in error


def test_missing_model_folder_is_named_before_any_work(fails: Fails, tmp_path: Path) -> None:
    error = fails("generate", "knowledge.llm.model=./absent-model", code=5)
    assert "absent-model" in error
    assert not list(tmp_path.glob("workspace/knowledge/*.parquet"))


def test_unreachable_mlflow_is_named_before_any_work(fails: Fails, tmp_path: Path) -> None:
    error = fails("run", "registry.tracking_uri=http://127.0.0.1:9", code=8)
    assert "127.0.0.1:9" in error
    assert not list(tmp_path.glob("workspace/*/*/manifest.json"))


def test_latency_is_of_a_click_model_with_knowledge(fails: Fails) -> None:
    assert "has no knowledge" in fails("latency", "training.strategies=[base]", code=2)
    sella = str(REPOSITORY / "configs" / "world-sella.yaml")
    assert "the section sella" in fails("latency", sella, code=2)


def test_nothing_to_serve(fails: Fails) -> None:
    assert "nowhere" in fails("serve", "--bundle", "nowhere", code=4)


def test_world_is_never_built_over_something(fails: Fails, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    assert "mine exists" in fails("world", "build", "mine", code=3)
