"""The shipped cluster file passes Ray's own check."""

from pathlib import Path

import yaml
from ray.autoscaler._private.util import prepare_config, validate_config


def test_cluster_file_is_valid_and_scales_gpu_workers() -> None:
    config = yaml.safe_load((Path(__file__).parents[1] / "cluster.yaml").read_text())
    prepared = prepare_config(config)
    validate_config(prepared)
    gpu = prepared["available_node_types"]["gpu_worker"]
    assert gpu["resources"]["GPU"] == 1
    assert gpu["min_workers"] == 0
    assert gpu["max_workers"] > 0
