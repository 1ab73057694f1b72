"""What a search has found: order, table, picture; what trials share."""

import json
import math
import warnings
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from lorecast.config import Space
from lorecast.data.dataset import Dataset
from lorecast.training.search import Ending, Trial, as_override, best_of, lines, ranked
from lorecast.training.search_plots import draw
from lorecast.training.splits import Labelled, Splits

SPACES = (
    Space("training.learning_rate", "loguniform", (1e-4, 1e-2)),
    Space("model.dropout", "uniform", (0.0, 0.5)),
    Space("model.mlp_hidden", "choice", ([200, 80], [64])),
)


def _trial(number: int, aucs: tuple[float, ...], ending: Ending = "finished") -> Trial:
    values = {
        "training.learning_rate": 0.0012345 * number,
        "model.dropout": 0.1 * number,
        "model.mlp_hidden": [64],
    }
    return Trial(number=number, values=values, valid_auc=aucs, ending=ending)


TRIALS = [
    _trial(1, (0.60, 0.70, 0.69)),
    _trial(2, (), "failed"),
    _trial(3, (0.65,), "stopped"),
    _trial(4, (0.61, 0.62, 0.70)),
    _trial(5, (0.99,), "failed"),
]


def test_the_best_comes_first_and_failed_ones_last() -> None:
    assert [trial.number for trial in ranked(TRIALS)] == [1, 4, 3, 5, 2]
    best = best_of(TRIALS)
    assert best is TRIALS[0]
    assert (best.best_auc, best.best_epoch) == (0.70, 2)
    assert best_of([TRIALS[1], TRIALS[4]]) is None
    assert math.isnan(TRIALS[1].best_auc)


def test_the_table_has_a_line_a_trial() -> None:
    table = lines(TRIALS, most=3)
    assert [line["trial"] for line in table] == ["1", "4", "3"]
    assert table[0]["valid AUC"] == "0.7000"
    assert table[0]["training.learning_rate"] == "0.001234"
    assert table[2]["end"] == "stopped"


def test_a_trial_survives_json() -> None:
    for trial in TRIALS:
        assert Trial.from_dict(json.loads(json.dumps(asdict(trial)))) == trial


def test_values_are_written_as_overrides_take_them() -> None:
    assert as_override([64, 32]) == "[64, 32]"
    assert as_override("din") == "din"
    assert as_override(True) == "true"


@pytest.mark.parametrize("chosen", [TRIALS, TRIALS[:1]], ids=["several", "one"])
def test_a_picture_is_drawn(chosen: list[Trial], tmp_path: Path) -> None:
    draw(chosen, SPACES, tmp_path / "search.png", "a search")
    assert (tmp_path / "search.png").stat().st_size > 10_000


def test_samples_are_shared_as_arrays_that_nobody_may_write(tiny_dataset: Dataset) -> None:
    train = Splits.load(tiny_dataset, None).train
    arrays = train.arrays()
    for array in arrays.values():
        array.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shared = Labelled.from_arrays(arrays)
    assert torch.equal(shared.label_B, train.label_B)
    assert torch.equal(shared.rows.history_item_BL, train.rows.history_item_BL)
    assert shared.rows.item_row_B.data_ptr() == train.rows.item_row_B.data_ptr(), "no copy"
