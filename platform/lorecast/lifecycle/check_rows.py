"""Check rows of a bundle: some test samples with the scores that training wrote for them.

    check.json      user_ids, item_ids, histories, contexts, scores

A bundle on another machine, years later, can so be held against the model that was measured.
"""

import json
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow.parquet as pq

from lorecast.artifacts import write_json
from lorecast.data.batches import load_samples
from lorecast.data.dataset import Dataset
from lorecast.lifecycle.pairs import Requests
from lorecast.lifecycle.scorer import Scorer

CHECK_ROWS: Final = "check.json"
SCORES: Final = "scores.parquet"
_ROWS = 64


def write_check_rows(folder: Path, dataset: Dataset, scored: Path) -> None:
    """Writes them to a bundle's folder. `scored`: the folder with the scores of the test part."""
    score_B = pq.read_table(scored / SCORES, columns=["score"])["score"].to_numpy()
    test = load_samples(dataset, "test")
    assert len(test) == len(score_B), "scores stand in the samples' order"
    chosen = np.unique(np.linspace(0, len(test) - 1, _ROWS).astype(np.intp))
    requests = Requests.of(dataset, test.take(chosen))
    write_json(folder / CHECK_ROWS, {**vars(requests), "scores": score_B[chosen].tolist()})


def largest_difference(scorer: Scorer) -> float | None:
    """Between the scores of a bundle's check rows, now and in training; none if it has none."""
    path = scorer.bundle.path / CHECK_ROWS
    if not path.exists():
        return None
    stored = json.loads(path.read_text(encoding="utf-8"))
    expected = np.asarray(stored.pop("scores"))
    return float(np.abs(Requests(**stored).scores(scorer) - expected).max())
