import numpy as np
import pytest
from sklearn import metrics as reference

from lorecast.evaluation.calibration import ece, reliability
from lorecast.evaluation.metrics import auc, gauc, log_loss, uauc
from lorecast.training.metrics import Metrics


def _samples(rng: np.random.Generator, decimals: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    user = rng.integers(0, 60, 4000)
    label = rng.integers(0, 2, 4000)
    return user, label, np.round(0.8 * rng.random(4000) + 0.15 * label, decimals)


@pytest.mark.parametrize("decimals", [1, 2, 15], ids=["many ties", "some ties", "no ties"])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("sign", [1, -1])
def test_auc_gauc_and_uauc_agree_with_a_loop_over_users(
    rng: np.random.Generator, decimals: int, kind: type[np.floating], sign: int
) -> None:
    user, label, score = _samples(rng, decimals)
    score = (sign * score).astype(kind)
    assert auc(label, score) == pytest.approx(reference.roc_auc_score(label, score), abs=1e-12)
    label[user == 7] = 1
    values, weights = [], []
    for one in np.unique(user[user != 7]):
        mine = user == one
        values.append(reference.roc_auc_score(label[mine], score[mine]))
        weights.append(mine.sum())
    expected = np.average(values, weights=weights)
    assert gauc(user, label, score) == pytest.approx(expected, abs=1e-12)
    assert uauc(user, label, score) == pytest.approx(np.mean(values), abs=1e-12)
    names = np.char.add("u", user.astype(str))
    assert gauc(names, label, score) == pytest.approx(expected, abs=1e-12)
    assert gauc(user - 30, label, score) == pytest.approx(expected, abs=1e-12)


def test_zeros_of_either_sign_tie() -> None:
    assert auc([1, 0], np.array([-0.0, 0.0], np.float32)) == 0.5


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


def test_calibration_error_is_the_mean_gap_of_bins_of_equal_mass(rng: np.random.Generator) -> None:
    probability = np.round(rng.random(1003), 2)  # ties; not a multiple of the bins
    label = rng.random(1003) < probability**2
    order = np.argsort(probability, kind="stable")
    parts = [order[np.arange(1003) * 7 // 1003 == b] for b in range(7)]
    gaps = [len(part) / 1003 * abs(np.mean(probability[part] - label[part])) for part in parts]
    assert ece(label, probability, bins=7) == pytest.approx(sum(gaps), abs=1e-12)
    curve = reliability(label, probability, bins=7)
    assert curve.rows.tolist() == [len(part) for part in parts]
    assert set(curve.rows) <= {143, 144}
    assert curve.observed == pytest.approx([label[part].mean() for part in parts])


def test_a_calibrated_model_has_a_small_error_and_a_shifted_one_its_shift(
    rng: np.random.Generator,
) -> None:
    probability = rng.uniform(0.2, 0.6, 100_000)
    label = rng.random(100_000) < probability
    assert ece(label, probability) < 0.01
    assert ece(label, probability + 0.3) == pytest.approx(0.3, abs=0.005)


def test_fewer_samples_than_bins() -> None:
    assert reliability([1, 0], [0.9, 0.2], bins=15).rows.tolist() == [1, 1]
