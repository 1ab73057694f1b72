"""Arms side by side: known answers, seeds in pairs, and what is too small to say."""

from pathlib import Path

import numpy as np
import pytest

from lorecast.evaluation import plots, tables
from lorecast.evaluation.comparison import METRICS, Scored, curve, measure, measure_slice
from lorecast.evaluation.metrics import auc, gauc
from lorecast.evaluation.results import ArmResult, Evaluation, Measured
from lorecast.evaluation.slices import Slice
from lorecast.evaluation.uncertainty import paired_bootstrap, seed_test

ROWS = 1200


@pytest.fixture
def scored(rng: np.random.Generator) -> Scored:
    """Three arms over 60 users: base, a better one, and one that shares a single seed."""
    user, label = rng.integers(100, 160, ROWS), rng.integers(0, 2, ROWS)

    def score(signal: float) -> np.ndarray:
        logit = signal * (2 * label - 1) + rng.normal(size=ROWS)
        return (1 / (1 + np.exp(-logit))).astype(np.float32)

    return Scored(
        user_B=user,
        label_B=label,
        arms={
            "base": {seed: score(0.3) for seed in (0, 1, 2)},
            "kser": {seed: score(0.8) for seed in (0, 1, 2)},
            "hein": {seed: score(0.3) for seed in (2, 7)},
        },
    )


def test_figures_are_means_over_seeds(scored: Scored) -> None:
    base, kser, hein = measure(scored, METRICS, 200)
    values = [auc(scored.label_B, score) for score in scored.arms["kser"].values()]
    found = kser.figures["auc"]
    assert found.value == pytest.approx(np.mean(values), abs=1e-12)
    assert found.std == pytest.approx(np.std(values, ddof=1), abs=1e-12)
    assert list(found.by_seed.values()) == pytest.approx(values, abs=1e-12)
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.value < found.high
    assert [each.arm for each in (base, kser, hein)] == ["base", "kser", "hein"]
    assert set(base.figures) == set(METRICS)
    assert base.gains == {}


def test_gains_pair_seeds_and_rows(scored: Scored) -> None:
    _, kser, hein = measure(scored, METRICS, 300)
    users, label = scored.user_B, scored.label_B
    gained = [
        gauc(users, label, scored.arms["kser"][s]) - gauc(users, label, scored.arms["base"][s])
        for s in (0, 1, 2)
    ]
    found, over_seeds = kser.gains["gauc"], seed_test(gained)
    assert over_seeds is not None
    assert found.value == pytest.approx(np.mean(gained), abs=1e-12)
    assert found.seeds_half_width == pytest.approx(over_seeds.half_width, abs=1e-12)
    assert found.seeds_p == pytest.approx(over_seeds.p, abs=1e-12)
    assert 0 < found.low < found.value < found.high
    assert found.p == pytest.approx(2 / 301)
    assert kser.gains["log_loss"].high < 0
    one = hein.gains["auc"]
    assert (one.seeds, one.seeds_p, one.seeds_half_width) == (1, None, None)
    alone = paired_bootstrap(
        users, label, scored.arms["hein"][2], scored.arms["base"][2], resamples=300
    )
    assert (one.value, one.low, one.high, one.p) == pytest.approx(tuple(alone), abs=1e-12)


def test_a_slice_is_measured_on_its_rows_alone(scored: Scored) -> None:
    part = Slice("half", "first", np.arange(ROWS) < ROWS // 2)
    found = measure_slice(scored, part, 100)
    half = auc(scored.label_B[: ROWS // 2], scored.arms["base"][1][: ROWS // 2])
    assert (found.rows, found.clicks) == (600, scored.label_B[:600].sum())
    assert found.measured[0].figures["auc"].by_seed[1] == pytest.approx(half, abs=1e-12)


@pytest.mark.parametrize("reason", ["rows", "users", "one class"])
def test_a_slice_that_is_too_small_is_counted_and_not_measured(scored: Scored, reason: str) -> None:
    mask_B = {
        "rows": np.arange(ROWS) < 49,
        "users": scored.user_B < 109,
        "one class": scored.label_B == 1,
    }[reason]
    found = measure_slice(scored, Slice("small", reason, mask_B), 100)
    assert found.measured == ()
    assert found.rows == mask_B.sum()


def test_no_user_with_both_classes_has_no_gauc_and_no_warning() -> None:
    label = np.arange(80) % 2
    scores = np.linspace(0.1, 0.9, 80)
    alone = Scored(user_B=np.arange(80), label_B=label, arms={"a": {0: scores}, "b": {0: scores}})
    _, second = measure(alone, ("auc", "gauc"), 50)
    assert second.figures["gauc"].value is None
    assert second.figures["gauc"].by_seed == {0: None}
    assert set(second.gains) == {"auc"}
    assert (second.gains["auc"].value, second.gains["auc"].p) == (0, 1)


@pytest.fixture
def evaluation(scored: Scored) -> Evaluation:
    parts = (
        Slice("half", "first", np.arange(ROWS) < ROWS // 2),
        Slice("half", "nobody", np.zeros(ROWS, bool)),
    )
    return Evaluation(
        name="tiny",
        rows=ROWS,
        users=60,
        clicks=int(scored.label_B.sum()),
        reference="base",
        resamples=50,
        bins=7,
        arms=tuple(
            ArmResult(
                name=found.arm,
                strategy="base",
                model="DIN",
                measured=found,
                reliability=curve(scored, found.arm, 7),
            )
            for found in measure(scored, METRICS, 50)
        ),
        slices=tuple(measure_slice(scored, part, 50) for part in parts),
    )


def test_an_evaluation_survives_its_file(evaluation: Evaluation) -> None:
    text = evaluation.model_dump_json()
    assert "NaN" not in text
    assert Evaluation.model_validate_json(text) == evaluation


def test_reliability_takes_the_rows_of_all_seeds(evaluation: Evaluation) -> None:
    assert [sum(arm.reliability.rows) for arm in evaluation.arms] == [3600, 3600, 2400]
    assert all(len(arm.reliability.rows) == 7 for arm in evaluation.arms)


def test_tables_say_what_there_is_and_a_dash_where_there_is_nothing(evaluation: Evaluation) -> None:
    auc_line = tables.figures(evaluation)[0]
    assert auc_line["metric"] == "AUC"
    found = evaluation.arms[1].measured.figures["auc"]
    assert auc_line["kser"] == f"{found.value:.4f} ± {found.std:.4f}"
    gains = tables.gains(evaluation)
    assert {line["arm"] for line in gains} == {"kser", "hein"}
    assert next(line for line in gains if line["arm"] == "hein")["p (seeds)"] == "–"
    first, nobody = tables.slices(evaluation)
    assert first["kser − base"].startswith("+0.")
    assert list(nobody.values()) == ["half: nobody", "0", "0", *["–"] * 5]
    lines = tables.markdown([first, nobody]).splitlines()
    assert lines[0].startswith("| slice | rows | users | base | kser | hein | kser − base |")
    assert lines[1].startswith("| --- | --: |")
    assert len(lines) == 4


def test_a_p_value_is_never_zero() -> None:
    assert (tables.p_value(0.0004), tables.p_value(0.0213)) == ("<0.001", "0.021")


@pytest.mark.parametrize("arms", [1, 3])
def test_everything_is_drawn(tmp_path: Path, evaluation: Evaluation, arms: int) -> None:
    shown = evaluation.model_copy(update={"arms": evaluation.arms[:arms]})
    drawn = plots.draw(shown, tmp_path)
    assert set(drawn) == {"reliability.png", "slices.png"} | ({"gains.png"} if arms > 1 else set())
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in drawn)


def test_an_arm_without_a_figure_is_drawn_without_it(
    tmp_path: Path, evaluation: Evaluation
) -> None:
    first, *others = evaluation.arms
    blank = first.measured.figures["auc"].model_copy(
        update={"value": None, "low": None, "high": None}
    )
    measured = Measured(
        arm=first.name, figures=first.measured.figures | {"auc": blank, "ece": blank}, gains={}
    )
    shown = evaluation.model_copy(
        update={"arms": (first.model_copy(update={"measured": measured}), *others)}
    )
    assert len(plots.draw(shown, tmp_path)) == 3
