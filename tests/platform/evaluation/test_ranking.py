import numpy as np
import pytest

from lorecast.evaluation.ranking import ranking_metrics


def test_a_list_worked_by_hand():
    figures = ranking_metrics([7] * 4, [0, 1, 0, 1], [0.9, 0.8, 0.7, 0.6], [1, 2])
    ideal = 1 + 1 / np.log2(3)
    assert figures["ndcg"] == pytest.approx((1 / np.log2(3) + 1 / np.log2(5)) / ideal)
    assert figures["ndcg@2"] == pytest.approx(1 / np.log2(3) / ideal)
    assert figures["map"] == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert figures["map@2"] == pytest.approx(1 / 2 / 2)
    assert figures["ndcg@1"] == figures["map@1"] == 0


def test_many_groups_equal_a_loop_over_them():
    random = np.random.default_rng(0)
    group = random.integers(0, 300, 4000)
    label = random.random(4000) < 0.2
    score = random.normal(size=4000).round(1)  # ties
    figures = ranking_metrics(group, label, score, [1, 5, 1000])
    for cutoff, end in ((None, ""), (1, "@1"), (5, "@5"), (1000, "@1000")):
        ndcg, precision = zip(
            *(
                _of_one_group(label[group == g], score[group == g], cutoff)
                for g in np.unique(group)
                if label[group == g].any()
            ),
            strict=True,
        )
        assert figures[f"ndcg{end}"] == pytest.approx(np.mean(ndcg), abs=1e-12)
        assert figures[f"map{end}"] == pytest.approx(np.mean(precision), abs=1e-12)


def test_ties_keep_the_order_they_came_in():
    first = ranking_metrics(["a", "a"], [1, 0], [0.5, 0.5], [1])
    second = ranking_metrics(["a", "a"], [0, 1], [0.5, 0.5], [1])
    assert first["ndcg@1"] == 1
    assert second["ndcg@1"] == 0


def test_nothing_positive_is_nan():
    assert all(np.isnan(v) for v in ranking_metrics([1, 2], [0, 0], [0.1, 0.2], [3]).values())


def _of_one_group(label, score, cutoff):
    ranked = label[np.argsort(-score, kind="stable")]
    positives = int(ranked.sum())
    k = cutoff or len(ranked)
    gained = sum(1 / np.log2(i + 2) for i, y in enumerate(ranked[:k]) if y)
    ideal = sum(1 / np.log2(i + 2) for i in range(min(k, positives)))
    precision = sum(ranked[: i + 1].sum() / (i + 1) for i, y in enumerate(ranked[:k]) if y)
    return gained / ideal, precision / min(k, positives)
