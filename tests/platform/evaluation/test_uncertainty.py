"""Intervals and tests: their statistics equal the plain figures, their coverage what it says."""

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from lorecast.evaluation.calibration import ece
from lorecast.evaluation.metrics import auc, gauc, log_loss, uauc
from lorecast.evaluation.ranking import ranking_metrics
from lorecast.evaluation.uncertainty import (
    difference,
    paired_bootstrap,
    plain,
    redraw,
    seed_test,
    statistics,
)


def _samples(rng: np.random.Generator, decimals: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    user = rng.integers(0, 60, 4000)
    label = rng.integers(0, 2, 4000)
    return user, label, np.round(0.8 * rng.random(4000) + 0.15 * label, decimals)


def _plain(
    user: np.ndarray, label: np.ndarray, score: np.ndarray, cutoffs: list[int]
) -> dict[str, float]:
    return {
        "auc": auc(label, score),
        "gauc": gauc(user, label, score),
        "uauc": uauc(user, label, score),
        "log_loss": log_loss(label, score),
        "ece": ece(label, score),
        **ranking_metrics(user, label, score, cutoffs),
    }


def test_statistics_of_all_users_once_are_the_plain_figures(rng: np.random.Generator) -> None:
    user, label, score = _samples(rng, 2)
    label[user == 3] = 0
    expected = _plain(user, label, score, [1, 5])
    of_model = statistics(user, label, score, expected)
    found = {name: plain(each, 60) for name, each in of_model.items()}
    assert found == pytest.approx(expected, abs=1e-12)


def test_statistics_of_weighted_users_are_the_figures_of_their_copies(
    rng: np.random.Generator,
) -> None:
    user, label, score = _samples(rng, 15)
    weight = rng.integers(0, 4, 60)
    copies = [(user == u, n) for u in range(60) for n in range(weight[u])]
    columns = [np.concatenate([c[is_u] for is_u, _ in copies]) for c in (label, score)]
    names = np.concatenate([100 * user[is_u] + n for is_u, n in copies])
    expected = _plain(names, *columns, [5])
    for name, each in statistics(user, label, score, expected).items():
        if name != "ece":  # whose bins stay those of the samples as they are
            found = each(weight[None].astype(float))[0]
            assert found == pytest.approx(expected[name], abs=1e-12), name


def test_one_class_under_the_weights_is_nan() -> None:
    of_two = statistics(np.array([0, 1]), [1, 0], [0.7, 0.2], ["auc"])
    assert np.isnan(of_two["auc"](np.array([[2.0, 0.0]]))).all()


def test_draws_are_of_users_with_replacement() -> None:
    seen = []

    def spy(weight_RU: np.ndarray) -> np.ndarray:
        seen.append(weight_RU)
        return weight_RU[:, 0]

    assert redraw([spy], 50, resamples=2000, seed=3).shape == (1, 2000)
    weight = np.concatenate(seen)
    assert (weight.sum(1) == 50).all()
    assert weight.mean(0) == pytest.approx(np.ones(50), abs=0.12)
    assert weight.var() == pytest.approx(1 - 1 / 50, abs=0.03)


def test_difference_tells_its_p() -> None:
    drawn = np.concatenate([np.full(19, -1.0), np.full(980, 1.0)])
    assert difference(0.9, drawn).p == pytest.approx(2 * 20 / 1000)
    assert difference(0.9, np.ones(999)).p == pytest.approx(2 / 1000)
    assert difference(0.0, np.zeros(999)).p == 1


def test_seed_test_is_the_paired_t_test(rng: np.random.Generator) -> None:
    values = rng.normal(0.3, 1, 5)
    found, expected = seed_test(values), ttest_1samp(values, 0)
    assert found is not None
    assert found.p == pytest.approx(expected.pvalue, abs=1e-12)
    ends = (found.mean - found.half_width, found.mean + found.half_width)
    assert ends == pytest.approx(tuple(expected.confidence_interval(0.95)), abs=1e-12)
    assert found.seeds == 5


def test_seed_test_of_one_seed_or_of_equal_differences() -> None:
    assert seed_test([0.1]) is None
    assert seed_test([0.0, 0.0]) == (0, 0, 1, 2)
    assert seed_test([0.5, 0.5]) == (0.5, 0, 0, 2)


def test_bootstrap_gives_the_difference_and_an_interval_around_it(
    rng: np.random.Generator,
) -> None:
    user, label, score = _samples(rng, 2)
    worse = score + 0.3 * rng.random(len(score))
    value, low, high, p = paired_bootstrap(user, label, score, worse, resamples=200, seed=1)
    assert value == pytest.approx(auc(label, score) - auc(label, worse), abs=1e-12)
    assert 0 < low < value < high
    assert paired_bootstrap(user, label, score, worse, resamples=200, seed=1) == (
        value,
        low,
        high,
        p,
    )


def test_bootstrap_draws_users_and_not_samples(rng: np.random.Generator) -> None:
    """Copies of a user's samples carry no news: the interval must not shrink."""
    user, label, score = _samples(rng, 15)
    worse = score + 0.3 * rng.random(len(score))
    columns = (user, label, score, worse)
    _, low, high, _ = paired_bootstrap(*columns, resamples=500, seed=1)
    copied = [np.tile(column, 9) for column in columns]
    _, low_of_copies, high_of_copies, _ = paired_bootstrap(*copied, resamples=500, seed=1)
    assert high_of_copies - low_of_copies == pytest.approx(high - low, rel=0.01)


def test_bootstrap_of_equal_scores_is_zero(rng: np.random.Generator) -> None:
    user, label, score = _samples(rng, 1)
    assert paired_bootstrap(user, label, score, score, resamples=50) == (0, 0, 0, 1)


def test_bootstrap_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Two equally good scores: 95 % of the intervals hold 0; 80 draws leave ±6 %."""
    rng = np.random.default_rng(3)
    covered = []
    for draw in range(80):
        user = np.repeat(np.arange(80), 10)
        label = rng.integers(0, 2, 800)
        taste = np.repeat(rng.normal(size=(2, 80)), 10, axis=1)
        a, b = label + taste + rng.normal(size=(2, 800))
        _, low, high, _ = paired_bootstrap(user, label, a, b, resamples=200, seed=draw)
        covered.append(low <= 0 <= high)
    assert 0.88 <= np.mean(covered) <= 1.0
