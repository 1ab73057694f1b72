"""Splits: nobody in two parts, no test before validation before training, shares kept."""

import numpy as np
import pytest

from lorecast.config import SplitConfig, load_config
from lorecast.data.split import (
    TEST,
    VALID,
    TimeSpan,
    parts_by_time,
    parts_of_users,
    require_every_part,
)
from lorecast.errors import ConfigError, InputError


def test_users_are_shuffled_and_cut_at_the_shares() -> None:
    parts = parts_of_users(1000, SplitConfig(valid=0.1, test=0.2, seed=3))
    assert np.bincount(parts[1:]).tolist() == [700, 100, 200]
    assert np.array_equal(parts, parts_of_users(1000, SplitConfig(valid=0.1, test=0.2, seed=3)))
    assert not np.array_equal(parts, parts_of_users(1000, SplitConfig(valid=0.1, test=0.2)))
    assert np.count_nonzero(parts[1:501] == TEST) < 150  # not one end of the table


@pytest.mark.parametrize("span_s", [10, 1000, 10**9])
def test_time_cuts_follow_the_shares_of_samples(span_s: int, rng: np.random.Generator) -> None:
    times = np.sort((rng.random(20_000) ** 3 * span_s).astype(np.int64))
    span = TimeSpan(int(times[0]), int(times[-1]))
    counts = span.counts(times[::2]) + span.counts(times[1::2])
    cuts = span.cuts(counts, SplitConfig(by="time", valid=0.1, test=0.1))
    parts = parts_by_time(times, cuts)
    assert (np.diff(parts) >= 0).all()
    if span_s > 10:  # else whole seconds hold more than a percent of the samples
        assert np.mean(parts == VALID) == pytest.approx(0.1, abs=0.01)
        assert np.mean(parts == TEST) == pytest.approx(0.1, abs=0.01)


def test_one_moment_cannot_be_parted_by_time() -> None:
    span = TimeSpan(5, 5)
    parts = parts_by_time(np.full(9, 5), span.cuts(span.counts(np.full(9, 5)), SplitConfig()))
    assert len(set(parts.tolist())) == 1


@pytest.mark.bad_input
def test_an_empty_part_is_named_with_the_fix() -> None:
    rows = {"train": 10, "valid": 0, "test": 3}
    with pytest.raises(InputError, match=r"'valid' has no samples .*raise its share"):
        require_every_part(rows, SplitConfig())
    with pytest.raises(InputError, match=r"mark rows with 'valid' in column 'fold'"):
        require_every_part(rows, SplitConfig(by="column", column="fold"))


@pytest.mark.bad_input
@pytest.mark.parametrize(
    "values", ["{train: 1, valid: 1, test: 0}", "{train: 1, test: 0}", "{train: 1, valid: 2}"]
)
def test_each_part_has_a_value_of_its_own(values: str) -> None:
    split = f"dataset.split={{by: column, column: fold, values: {values}}}"
    with pytest.raises(ConfigError, match="give each of the three its own value"):
        load_config(None, [split])
    with pytest.raises(ConfigError, match="by: column"):
        load_config(None, ["dataset.split={values: {train: 1, valid: 2, test: 3}}"])
