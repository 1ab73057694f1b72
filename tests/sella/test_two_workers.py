"""Two processes, real ones: they end with the weights that one ends with."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.sella import two_workers
from tests.sella.two_workers import LINE_ROWS, TRAININGS, read_told


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes have left of all trainings."""
    made = tmp_path_factory.mktemp("two")
    two_workers.train_in_two(made)
    return made


@pytest.mark.parametrize("name", TRAININGS)
def test_two_workers_end_with_the_weights_of_one(folder: Path, name: str) -> None:
    first, second = (read_told(folder, name, rank)[0] for rank in (0, 1))
    alone, _ = TRAININGS[name](folder)
    assert first.keys() == second.keys() == alone.keys()
    for key, weight in alone.items():
        assert torch.equal(first[key], second[key]), key
        torch.testing.assert_close(first[key], weight.detach(), rtol=1e-3, atol=1e-5, msg=key)


@pytest.mark.parametrize("name", ["adapters", "sharded_adapters", "tokens", "aligned"])
def test_losses_and_figures_are_those_of_all_rows(folder: Path, name: str) -> None:
    first, second = (read_told(folder, name, rank)[1] for rank in (0, 1))
    assert first == second
    _, alone = TRAININGS[name](folder)
    np.testing.assert_allclose(first, alone, rtol=1e-4)


def test_a_batch_is_divided_once_and_all_processes_end_together(folder: Path) -> None:
    told = [read_told(folder, "line", rank)[1] for rank in (0, 1)]
    assert told[0]["checks"] == told[1]["checks"]
    assert len(told[0]["checks"]) == 4, "rank 0's figures count: best at the first, patience of 3"
    for step, (left, right) in enumerate(zip(*(t["seen"] for t in told), strict=True)):
        if len(left) > 1:
            assert abs(len(left) - len(right)) <= 1
            assert len({row // 2 for row in left} & {row // 2 for row in right}) <= 1, step
    epoch = [row for t in told for batch in t["seen"][:11] for row in batch]
    assert len(epoch) == LINE_ROWS + 1, "the row that could not be shared was run twice"
    assert set(epoch) == set(range(LINE_ROWS))


def test_two_workers_that_were_cut_off_resume_bit_for_bit(folder: Path) -> None:
    for rank in (0, 1):
        whole, resumed = (read_told(folder, name, rank) for name in ("line", "resumed_line"))
        assert all(torch.equal(resumed[0][key], value) for key, value in whole[0].items())
        assert resumed[1]["checks"] == whole[1]["checks"]
        assert len(resumed[1]["seen"]) == len(whole[1]["seen"]) - two_workers.CUT_OFF_AFTER
