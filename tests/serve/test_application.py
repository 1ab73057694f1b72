"""The application that Ray Serve builds from its YAML."""

import hashlib
from pathlib import Path

import pytest
from pydantic import ValidationError

from lorecast.config import MAIN_ARM
from lorecast.lifecycle.history import enrol
from lorecast.lifecycle.registry import InMemoryRegistry, RunRecord
from lorecast.serve import application
from lorecast.serve.application import Arguments, build
from tests.small_bundle import write_small_bundle
from tests.tiny_dataset import write_tiny_dataset


def test_serves_the_champion_from_the_shared_workspace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = write_small_bundle(tmp_path, write_tiny_dataset(tmp_path))
    registry = InMemoryRegistry()
    record = RunRecord(name="run", params={}, metrics={}, curves=[], tags={}, plots=[])
    enrol(registry, "lorecast-films", bundle, record, "print-1")
    monkeypatch.setattr(application, "open_registry", lambda _: registry)
    shared = tmp_path / "shared"
    words = ("name=films", f"compute.workspace={shared}", "serving.max_items=77")
    monkeypatch.setenv("LORECAST_SERVE_TOKEN", "sesame-0123456789abcdef")
    built = build(Arguments(experiment=words))
    sources, serving, _, watcher, digest = built._bound_deployment.init_args
    first = sources[MAIN_ARM].first
    assert digest == hashlib.sha256(b"sesame-0123456789abcdef").hexdigest()
    assert (first.version, serving.max_items) == ("lorecast-films/1", 77)
    assert first.folder.is_relative_to(shared)
    (followed,) = watcher._bound_deployment.init_args
    assert followed[MAIN_ARM].follow.reference == "models:/lorecast-films@champion"
    fixed = build(Arguments(experiment=words, model="models:/lorecast-films/1"))
    assert fixed._bound_deployment.init_args[3] is None
    arm = "serving.arms.new={model: 'models:/lorecast-films@champion', share: 0.1}"
    monkeypatch.chdir(tmp_path)
    words += (arm, "serving.shadow_log=log")
    armed = build(Arguments(experiment=words, model="models:/lorecast-films/1"))
    sources, serving, _, watcher, _ = armed._bound_deployment.init_args
    assert list(sources) == [MAIN_ARM, "new"]
    assert watcher is not None, "for the arm"
    assert serving.shadow_log == str(tmp_path / "log"), "replicas may have another current folder"


@pytest.mark.bad_input
def test_unknown_argument_is_an_error() -> None:
    with pytest.raises(ValidationError, match="modle"):
        Arguments(**{"modle": "models:/films/1"})
