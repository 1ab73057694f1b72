"""Which model answers is known by its files; folders that cannot answer are refused."""

from pathlib import Path

import pytest

from lorecast.errors import EngineError
from lorecast.knowledge.language_model import find_language_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (tmp_path / name).write_text(name)
    return tmp_path


def test_contents_decide_and_not_the_path(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    before = find_language_model(str(folder))
    moved = folder.rename(tmp_path_factory.mktemp("moved") / "model")
    assert find_language_model(str(moved)).digest == before.digest
    (moved / "model.safetensors").write_text("other weights")
    assert find_language_model(str(moved)).digest != before.digest


def test_the_memo_follows_changes(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    memo = tmp_path_factory.mktemp("memo")
    first = find_language_model(str(folder), memo=memo)
    assert find_language_model(str(folder), memo=memo) == first == find_language_model(str(folder))
    (folder / "model.safetensors").write_text("other weights")
    assert find_language_model(str(folder), memo=memo).digest != first.digest


def test_a_revision_is_another_model() -> None:
    names = [("org/model", None), ("org/model", "v2"), ("org/other", None)]
    assert len({find_language_model(*name).digest for name in names}) == 3


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("config.json", "holds no language model"),
        ("model.safetensors", "holds no weights"),
        ("tokenizer.json", "has no tokenizer"),
    ],
)
def test_what_a_folder_lacks_is_named(folder: Path, missing: str, said: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(EngineError, match=said):
        find_language_model(str(folder))


@pytest.mark.bad_input
@pytest.mark.parametrize("source", ["./absent", "/absent/model", "models/mine/v1", "~/absent"])
def test_a_missing_folder_is_named(source: str) -> None:
    with pytest.raises(EngineError, match=f"no folder {source}"):
        find_language_model(source)
