"""Runs in the peers' interpreter: FuxiCTR's gAUC of given scores, printed as JSON.

    python fuxictr_gauc.py CHECKOUT JOB

JOB is a JSON object: `file`, an .npz with user, label and score, one entry a row.
"""

import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np


def main(checkout: Path, job: dict[str, Any]) -> dict[str, float]:
    sys.path.insert(0, str(checkout))
    metrics = importlib.import_module("fuxictr.metrics")
    assert Path(metrics.__file__ or "").is_relative_to(checkout), "another fuxictr is in the way"
    rows = np.load(job["file"])
    user, label, score = rows["user"], rows["label"], rows["score"]
    started_s = time.perf_counter()
    answer = metrics.evaluate_metrics(label, score, ["gAUC"], group_id=user)
    seconds = time.perf_counter() - started_s
    return {"gauc": float(answer["gAUC"]), "seconds": seconds}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), json.loads(sys.argv[2]))))
