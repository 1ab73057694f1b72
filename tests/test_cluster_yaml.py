"""The shipped cluster file passes Ray's own check."""

from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.conftest import REPOSITORY

FILE = REPOSITORY / "cluster.yaml"


@pytest.fixture
def prepared() -> dict[str, Any]:
    config: dict[str, Any] = prepare_config(yaml.safe_load(FILE.read_text()))
    return config


def test_cluster_file_is_valid_and_scales_gpu_workers(prepared: dict[str, Any]) -> None:
    validate_config(prepared)
    gpu = prepared["available_node_types"]["gpu_worker"]
    assert gpu["resources"]["GPU"] == 1
    assert gpu["min_workers"] == 0
    assert gpu["max_workers"] > 0
    assert gpu["docker"]["worker_image"].endswith("-gpu")


def test_all_nodes_ask_for_the_token_and_get_it(prepared: dict[str, Any]) -> None:
    starts = [
        command
        for role in ("head", "worker")
        for command in prepared[f"{role}_start_ray_commands"]
        if "ray start" in command
    ]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in command for command in starts)
    assert "~/.ray/auth_token" in prepared["file_mounts"]


def test_containers_see_shared_folder_tables_and_mlflow(prepared: dict[str, Any]) -> None:
    options = " ".join(prepared["docker"]["run_options"])
    mounted = " ".join(prepared["initialization_commands"])
    for folder in ("/mnt/lorecast", "/mnt/tables"):
        assert f"-v {folder}:{folder}" in options
        assert f" {folder}" in mounted
    assert "MLFLOW_TRACKING_URI=" in options


def test_the_check_can_fail() -> None:
    config = yaml.safe_load(FILE.read_text())
    with pytest.raises(Exception, match="max_worker_nodes"):
        validate_config(prepare_config({**config, "max_worker_nodes": 3}))
