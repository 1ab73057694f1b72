"""Artifacts: complete when their manifest exists, never read before, never lost."""

import json
import multiprocessing
from pathlib import Path

import pytest

from lorecast.artifacts import Artifact, StageSpec, build, find, fingerprint, fingerprint_files
from lorecast.errors import ArtifactError

SPEC = StageSpec(stage="prepare", name="toy", identity={"a": 1, "b": [1, 2]}, inputs={"x": "y"})


def test_build_then_find(tmp_path: Path) -> None:
    assert find(tmp_path, SPEC) is None
    with build(tmp_path, SPEC) as draft:
        (draft.path / "data").write_text("1")
        draft.facts["rows"] = 7
        assert find(tmp_path, SPEC) is None
    artifact = find(tmp_path, SPEC)
    assert artifact is not None
    assert artifact.facts == {"rows": 7}
    assert artifact.path.name == f"toy-{SPEC.fingerprint[:8]}"
    assert {"versions", "seconds", "git_commit", "inputs"} <= artifact.manifest.keys()


def test_failed_build_stays_unfinished_and_is_cleared_or_resumed(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), build(tmp_path, SPEC) as draft:
        (draft.path / "half").write_text("1")
        raise ZeroDivisionError
    folder = SPEC.folder(tmp_path)
    assert find(tmp_path, SPEC) is None
    with pytest.raises(ArtifactError, match="unfinished"):
        Artifact.open(folder)
    with pytest.raises(ZeroDivisionError), build(tmp_path, SPEC, resume=True) as draft:
        assert (draft.path / "half").exists()
        raise ZeroDivisionError
    with build(tmp_path, SPEC) as draft:
        assert not (draft.path / "half").exists()


def test_damaged_missing_and_foreign_artifacts_are_named(tmp_path: Path) -> None:
    with build(tmp_path, SPEC):
        pass
    manifest = SPEC.folder(tmp_path) / "manifest.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**content, "fingerprint": "0" * 32}))
    with pytest.raises(ArtifactError, match="another artifact"):
        find(tmp_path, SPEC)
    manifest.write_text("{half")
    with pytest.raises(ArtifactError, match="damaged"):
        find(tmp_path, SPEC)
    with pytest.raises(ArtifactError, match="no such artifact"):
        Artifact.open(tmp_path / "nowhere")


def _build_elsewhere(workspace: Path) -> None:
    try:
        with build(workspace, SPEC):
            pass
    except ArtifactError:
        raise SystemExit(7) from None


def test_two_processes_never_make_the_same_artifact(tmp_path: Path) -> None:
    with build(tmp_path, SPEC):
        other = multiprocessing.get_context("spawn").Process(
            target=_build_elsewhere, args=(tmp_path,)
        )
        other.start()
        other.join()
        assert other.exitcode == 7


def test_fingerprint_ignores_key_order_and_sees_every_value() -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 1.5})
    with pytest.raises(TypeError):
        fingerprint({"a": object()})
    with pytest.raises(ValueError, match="Out of range"):
        fingerprint(float("nan"))


def test_fingerprint_of_files_is_content_not_place(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "t.csv").write_text("same")
    one, two = (fingerprint_files([tmp_path / folder]) for folder in ("one", "two"))
    assert one == two
    (tmp_path / "two" / "t.csv").write_text("other")
    assert fingerprint_files([tmp_path / "two"]) != one
