"""An experiment under a real Ray Serve: two replicas, each arm with an alias of its own."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from lorecast.config import MAIN_ARM, ArmConfig, ServingConfig
from lorecast.lifecycle.scorer import Scorer
from lorecast.serve import run
from lorecast.serve.assignment import Draw
from lorecast.serve.following import Follow, Source, Target
from tests.free_port import free_port
from tests.serve.folder_registry import FolderRegistry
from tests.small_bundle import write_small_bundle
from tests.tiny_dataset import write_tiny_dataset

_ALIASES = {MAIN_ARM: "champion", "challenger": "challenger", "candidate": "candidate"}
_USERS = [f"u{n}" for n in range(1, 21)]
_ITEMS = [f"i{n}" for n in range(1, 41)]
_TIMEOUT_S = 60.0


@pytest.fixture
def registry(tmp_path: Path) -> FolderRegistry:
    """Four versions; the fourth lacks its weights."""
    for number in (1, 2, 3, 4):
        workspace = tmp_path / str(number)
        write_small_bundle(workspace, write_tiny_dataset(workspace), seed=number)
    (tmp_path / "4" / "bundle" / "weights.safetensors").write_bytes(b"")
    registry = FolderRegistry(tmp_path)
    for number, alias in enumerate(_ALIASES.values(), start=1):
        registry.promote(number, alias)
    return registry


def _source(registry: FolderRegistry, alias: str, workspace: Path) -> Source:
    reference = f"models:/films@{alias}"
    follow = Follow(registry=registry, reference=reference, workspace=workspace, period_s=1.0)
    return Source(first=Target.named(registry, reference, workspace), follow=follow)


def test_arms_answer_their_users_and_follow_their_alias(
    ray_cluster: None, tmp_path: Path, registry: FolderRegistry
) -> None:
    from ray import serve

    serving = ServingConfig(
        port=free_port(),
        replicas=2,
        arms={
            "challenger": ArmConfig(model="models:/films@challenger", share=0.5),
            "candidate": ArmConfig(model="models:/films@candidate", shadow=1.0),
        },
        arms_salt="spring",
        shadow_log=str(tmp_path / "shadows"),
    )
    scorers = {n: Scorer.load(tmp_path / str(n) / "bundle") for n in (1, 2, 3)}
    draw = Draw("spring", {"challenger": 0.5})
    client = httpx.Client(base_url=f"http://127.0.0.1:{serving.port}")

    def arms() -> list[dict[str, Any]]:
        return [client.get("/v1/model").json()["arms"] for _ in range(8)]

    def serve_now(**versions: int) -> bool:
        return all(
            each[arm]["model_version"] == f"films/{number}"
            for each in arms()
            for arm, number in versions.items()
        )

    def check_answers(main: int, challenger: int) -> None:
        for user in _USERS * 2:
            answer = client.post("/v1/score", json={"user_id": user, "item_ids": _ITEMS}).json()
            number = {MAIN_ARM: main, "challenger": challenger}[draw.arm(user)]
            assert answer["arm"] == draw.arm(user)
            assert answer["model_version"] == f"films/{number}"
            expected_N = scorers[number].candidates(user, _ITEMS).score_N
            np.testing.assert_allclose(answer["scores"], expected_N, rtol=0, atol=1e-6)

    try:
        sources = {arm: _source(registry, alias, tmp_path) for arm, alias in _ALIASES.items()}
        run.start(sources, serving, tolerance=1e-4)
        (told, *_) = arms()
        assert {arm: (each["share"], each["shadow"]) for arm, each in told.items()} == {
            MAIN_ARM: (0.5, None),
            "challenger": (0.5, None),
            "candidate": (None, 1.0),
        }
        assert told["challenger"]["reference"] == "models:/films@challenger"
        check_answers(main=1, challenger=2)
        registry.promote(3, "challenger")
        registry.promote(2, "candidate")
        _until(lambda: serve_now(main=1, challenger=3, candidate=2))
        check_answers(main=1, challenger=3)
        registry.promote(4, "challenger")
        _until(lambda: all(each["challenger"]["follows"]["trouble"] for each in arms()))
        assert serve_now(main=1, challenger=3), "the broken one never answers"
        registry.promote(3)
        registry.promote(3, "challenger")
        _until(lambda: serve_now(main=3, challenger=3))
        check_answers(main=3, challenger=3)
        handle = serve.get_deployment_handle("watcher", run.APPLICATION)
        _, said = handle.said.remote(0).result(timeout_s=10)
    finally:
        client.close()
        serve.shutdown()
    assert {
        "challenger: films/3 serves now, after films/2",
        "films/3 serves now, after films/1",
    } < {*said}
    assert [line for line in said if line.startswith("challenger: films/3 goes on: ")]
    logged = [
        json.loads(line)
        for file in (tmp_path / "shadows").glob("*.jsonl")
        for line in file.read_text().splitlines()
    ]
    assert {line["user_id"] for line in logged} == {u for u in _USERS if draw.arm(u) == MAIN_ARM}
    assert {line["arm_model"] for line in logged} == {"films/3", "films/2"}
    for line in logged:
        shadow = scorers[int(line["arm_model"][-1])]
        expected_N = shadow.candidates(line["user_id"], line["item_ids"]).score_N
        np.testing.assert_allclose(line["arm_scores"], expected_N, rtol=0, atol=1e-6)


def _until(happened: Callable[[], bool]) -> None:
    end_s = time.monotonic() + _TIMEOUT_S
    while not happened():
        assert time.monotonic() < end_s
        time.sleep(0.1)
