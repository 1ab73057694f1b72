"""Runs in the peers' interpreter: one epoch of a model of FuxiCTR's model zoo, printed as JSON.

    python fuxictr_train.py CHECKOUT JOB

JOB is a JSON object: `folder` (feature_map.json, train.parquet, test.parquet), `model` (a folder of
its model_zoo), `seed`, `evaluate` (whether the test part is scored) and `params`, the keys of its
own YAML. Timed is its own `fit` of one epoch: loader, worker processes, steps. What `fit` does
after an epoch (validation, checkpoint) is left out, and opening the files is timed apart.
"""

import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch


def main(checkout: Path, job: dict[str, Any]) -> dict[str, Any]:
    sys.path[:0] = [str(checkout), str(checkout / "model_zoo" / job["model"])]
    package = importlib.import_module("fuxictr")
    assert Path(package.__file__ or "").is_relative_to(checkout), "another fuxictr is in the way"
    features = importlib.import_module("fuxictr.features")
    loaders = importlib.import_module("fuxictr.pytorch.dataloaders")
    model_class: Any = getattr(importlib.import_module("src"), job["model"])

    torch.set_num_threads(1)
    importlib.import_module("fuxictr.pytorch.torch_utils").seed_everything(job["seed"])
    folder, params = Path(job["folder"]), dict(job["params"])
    for key in ("din_target_field", "din_sequence_field"):
        if key in params:
            params[key] = [tuple(fields) for fields in params[key]]

    started_s = time.perf_counter()
    feature_map = features.FeatureMap(params["dataset_id"], str(folder))
    feature_map.load(str(folder / "feature_map.json"), params)
    train, _ = loaders.RankDataLoader(
        feature_map, stage="train", train_data=str(folder / "train.parquet"), **params
    ).make_iterator()
    open_s = time.perf_counter() - started_s

    class TrainedOnce(model_class):  # type: ignore[misc]
        def eval_step(self) -> None:
            """One epoch leaves nothing to choose."""

        def load_weights(self, checkpoint: str) -> None:
            """Those of the only epoch are there."""

    model = TrainedOnce(feature_map, **params)
    started_s = time.perf_counter()
    model.fit(train, epochs=1)
    train_s = time.perf_counter() - started_s
    answer = {
        "rows": train.num_samples,
        "rows_per_second": train.num_samples / train_s,
        "train_s": train_s,
        "open_s": open_s,
        "parameters": sum(weight.numel() for weight in model.parameters()),
    }
    if job["evaluate"]:
        test = loaders.RankDataLoader(
            feature_map, stage="test", test_data=str(folder / "test.parquet"), **params
        ).make_iterator()
        answer["test"] = {name: float(value) for name, value in model.evaluate(test).items()}
    return answer


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), json.loads(sys.argv[2]))))
