import numpy as np
import pytest
from sklearn import metrics as reference

from lorecast.training.metrics import Metrics, auc, gauc, log_loss, paired_bootstrap


def _samples(rng: np.random.Generator, decimals: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    user = rng.integers(0, 60, 4000)
    label = rng.integers(0, 2, 4000)
    return user, label, np.round(0.8 * rng.random(4000) + 0.15 * label, decimals)


@pytest.mark.parametrize("decimals", [1, 2, 15], ids=["many ties", "some ties", "no ties"])
def test_auc_and_gauc_agree_with_the_reference(rng: np.random.Generator, decimals: int) -> None:
    user, label, score = _samples(rng, decimals)
    assert auc(label, score) == pytest.approx(reference.roc_auc_score(label, score), abs=1e-12)
    label[user == 7] = 1
    values, weights = [], []
    for one in np.unique(user[user != 7]):
        mine = user == one
        values.append(reference.roc_auc_score(label[mine], score[mine]))
        weights.append(mine.sum())
    expected = np.average(values, weights=weights)
    assert gauc(user, label, score) == pytest.approx(expected, abs=1e-12)


def test_gauc_does_not_depend_on_the_order_of_samples(rng: np.random.Generator) -> None:
    user, label, score = _samples(rng, 1)
    order = rng.permutation(len(user))
    assert gauc(user[order], label[order], score[order]) == pytest.approx(
        gauc(user, label, score), abs=1e-12
    )


def test_one_class_has_no_auc() -> None:
    assert np.isnan(auc([1, 1], [0.1, 0.2]))
    assert np.isnan(gauc([1, 2], [0, 1], [0.1, 0.2]))


def test_log_loss_agrees_with_the_reference_and_stays_finite(rng: np.random.Generator) -> None:
    _, label, score = _samples(rng, 15)
    probability = np.clip(score, 1e-3, 1 - 1e-3)
    assert log_loss(label, probability) == pytest.approx(reference.log_loss(label, probability))
    assert np.isfinite(log_loss([1, 0], np.float32([0, 1])))


def test_metrics_come_together(rng: np.random.Generator) -> None:
    user, label, score = _samples(rng, 15)
    found = Metrics.of(user, label, score)
    assert (found.auc, found.gauc) == (auc(label, score), gauc(user, label, score))


def test_bootstrap_gives_the_difference_and_an_interval_around_it(
    rng: np.random.Generator,
) -> None:
    user, label, score = _samples(rng, 2)
    worse = score + 0.3 * rng.random(len(score))
    value, low, high = paired_bootstrap(user, label, score, worse, resamples=200, seed=1)
    assert value == pytest.approx(auc(label, score) - auc(label, worse), abs=1e-12)
    assert 0 < low < value < high
    assert paired_bootstrap(user, label, score, worse, resamples=200, seed=1) == (value, low, high)


def test_bootstrap_draws_users_and_not_samples(rng: np.random.Generator) -> None:
    """Copies of a user's samples carry no news: the interval must not shrink."""
    user, label, score = _samples(rng, 15)
    worse = score + 0.3 * rng.random(len(score))
    columns = (user, label, score, worse)
    _, low, high = paired_bootstrap(*columns, resamples=500, seed=1)
    copied = [np.tile(column, 9) for column in columns]
    _, low_of_copies, high_of_copies = paired_bootstrap(*copied, resamples=500, seed=1)
    assert high_of_copies - low_of_copies == pytest.approx(high - low, rel=0.01)


def test_bootstrap_of_equal_scores_is_zero(rng: np.random.Generator) -> None:
    user, label, score = _samples(rng, 1)
    assert paired_bootstrap(user, label, score, score, resamples=50) == (0, 0, 0)


def test_bootstrap_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Two equally good scores: 95 % of the intervals hold 0; 80 draws leave ±6 %."""
    rng = np.random.default_rng(3)
    covered = []
    for draw in range(80):
        user = np.repeat(np.arange(80), 10)
        label = rng.integers(0, 2, 800)
        taste = np.repeat(rng.normal(size=(2, 80)), 10, axis=1)
        a, b = label + taste + rng.normal(size=(2, 800))
        _, low, high = paired_bootstrap(user, label, a, b, resamples=200, seed=draw)
        covered.append(low <= 0 <= high)
    assert 0.88 <= np.mean(covered) <= 1.0
