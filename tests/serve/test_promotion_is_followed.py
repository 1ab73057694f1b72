"""A promotion, a broken version and a rollback under a real Ray Serve."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from lorecast.config import MAIN_ARM, ServingConfig
from lorecast.serve import run
from lorecast.serve.following import Follow, Source, Target
from tests.free_port import free_port
from tests.serve.folder_registry import FolderRegistry
from tests.small_bundle import write_small_bundle
from tests.tiny_dataset import write_tiny_dataset

_TIMEOUT_S = 30.0


@pytest.fixture
def registry(tmp_path: Path) -> FolderRegistry:
    """Three versions; the third does not score as it says."""
    for number in (1, 2, 3):
        workspace = tmp_path / str(number)
        write_small_bundle(workspace, write_tiny_dataset(workspace), seed=number)
    broken = tmp_path / "3" / "bundle"
    shutil.copyfile(tmp_path / "1" / "bundle" / "check.json", broken / "check.json")
    card = json.loads((broken / "bundle.json").read_text())
    card["files"]["check.json"] = (broken / "check.json").stat().st_size
    (broken / "bundle.json").write_text(json.dumps(card))
    registry = FolderRegistry(tmp_path)
    registry.promote(1)
    return registry


def test_promotions_and_rollbacks_are_followed(
    ray_cluster: None, tmp_path: Path, registry: FolderRegistry
) -> None:
    from ray import serve

    reference = "models:/films@champion"
    follow = Follow(registry=registry, reference=reference, workspace=tmp_path, period_s=1.0)
    serving = ServingConfig(port=free_port(), replicas=2)
    client = httpx.Client(base_url=f"http://127.0.0.1:{serving.port}")
    seen: list[str] = []

    def serves(version: str) -> bool:
        answers = [client.get("/v1/model").json() for _ in range(8)]
        seen.extend(answer["model_version"] for answer in answers)
        return all(answer["model_version"] == version for answer in answers)

    try:
        main = Source(first=Target.named(registry, reference, tmp_path), follow=follow)
        run.start({MAIN_ARM: main}, serving, tolerance=1e-4)
        assert serves("films/1")
        registry.promote(2)
        _until(lambda: serves("films/2"))
        registry.promote(3)
        _until(lambda: "promotion.parity" in _trouble(client))
        assert serves("films/2"), "the broken one never answers"
        registry.promote(1)
        _until(lambda: serves("films/1") and not _trouble(client))
        (tmp_path / "down").touch()
        _until(lambda: "does not answer" in _trouble(client))
        assert serves("films/1")
        handle = serve.get_deployment_handle("watcher", run.APPLICATION)
        num_said, said = handle.said.remote(0).result(timeout_s=10)
    finally:
        client.close()
        serve.shutdown()
    assert set(seen) == {"films/1", "films/2"}
    assert num_said == len(said) == 4
    assert said[0] == "films/2 serves now, after films/1"
    assert said[1].startswith("films/2 goes on: films/3 cannot serve: ")
    assert said[2] == "films/1 serves now, after films/2"
    assert said[3] == "films/1 goes on: the registry does not answer"


def _trouble(client: httpx.Client) -> str:
    return client.get("/v1/model").json()["follows"]["trouble"] or ""


def _until(happened: Callable[[], bool]) -> None:
    end_s = time.monotonic() + _TIMEOUT_S
    while not happened():
        assert time.monotonic() < end_s
        time.sleep(0.1)
