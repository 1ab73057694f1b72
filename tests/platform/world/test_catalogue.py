"""The world is the same for a seed, and holds what docs/world.md says is planted."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from lorecast.knowledge.factors import load_factor_set
from lorecast.world import World, generate
from lorecast.world.accuracy import is_right, named_value
from lorecast.world.truth import HISTORY_SHOWN, shown_histories, true_preferences
from lorecast.world.vocabulary import HIDDEN_FACTORS, HOMOGENISED, REDUNDANT, TASTE_FACTORS


@pytest.fixture(scope="module")
def world() -> World:
    return generate()


def test_same_seed_same_world_other_seed_another(world):
    assert generate() == world
    assert generate(world.seed + 1).items != world.items


def test_tables_are_clean(world):
    for table, key in ((world.items, "item_id"), (world.users, "user_id"), (world.items, "title")):
        assert pc.count_distinct(table[key]).as_py() == len(table)
    clicks = world.interactions
    assert clicks.group_by(["user_id", "item_id"]).aggregate([]).num_rows == clicks.num_rows
    assert pc.all(pc.is_in(clicks["item_id"], world.items["item_id"].combine_chunks())).as_py()
    assert np.all(np.diff(clicks["timestamp"].to_numpy()) >= 0)
    assert set(pc.unique(clicks["rating"]).to_pylist()) == {1, 2, 3, 4, 5}
    assert 0.4 <= np.mean(clicks["rating"].to_numpy() > 3) <= 0.6


def test_hidden_factors_stay_out_of_the_visible_tables(world):
    visible = {*world.items.column_names, *world.users.column_names}
    assert visible == {"item_id", "title", "year", "genre", "user_id", "age_group", "region"}


def test_popularity_is_a_power_law(world):
    counts = np.sort(world.item_truth["num_interactions"].to_numpy())[::-1]
    rank = np.arange(1, counts.size + 1)
    middle = slice(20, 400)
    slope, level = np.polyfit(np.log(rank[middle]), np.log(counts[middle]), 1)
    error = np.log(counts[middle]) - (slope * np.log(rank[middle]) + level)
    assert -1.0 < slope < -0.6
    assert np.std(error) < 0.1


def test_quarters_and_corpus_follow_popularity(world):
    counts = world.item_truth["num_interactions"].to_numpy()
    quarter = world.item_truth["popularity_quarter"].to_numpy()
    mentions = world.item_truth["corpus_mentions"].to_numpy()
    assert np.bincount(quarter).tolist() == [0, 150, 150, 150, 150]
    assert counts[quarter == 1].min() >= counts[quarter == 2].max()
    assert np.all(np.diff(mentions[np.argsort(counts)]) >= 0)


def test_some_films_and_viewers_are_cold(world):
    first = world.interactions.group_by("item_id").aggregate([("timestamp", "min")])
    start, end = pc.min_max(world.interactions["timestamp"]).as_py().values()
    late = np.mean(first["timestamp_min"].to_numpy() > (start + end) / 2)
    assert 0.1 < late < 0.25
    per_viewer = world.interactions.group_by("user_id").aggregate([([], "count_all")])
    cold = np.mean(per_viewer["count_all"].to_numpy() < 10)
    assert 0.05 < cold < 0.2


def test_homogenised_factor_says_the_same_of_all(world):
    for name in HOMOGENISED:
        assert pc.count_distinct(world.item_truth[name]).as_py() == 1


def test_redundant_factor_repeats_another(world):
    for name, repeated in REDUNDANT.items():
        pairs = world.item_truth.group_by([repeated, name]).aggregate([])
        assert pairs.num_rows == len(HIDDEN_FACTORS[repeated].values)
        assert pc.count_distinct(pairs[name]).as_py() == pairs.num_rows


def test_liking_depends_on_each_hidden_factor(world):
    """A film sharing the value a viewer liked most before is liked more often than another."""
    histories = shown_histories(world)
    liked = histories["liked"].combine_chunks()
    viewer = pc.index_in(
        world.interactions["user_id"], histories["user_id"].combine_chunks()
    ).to_numpy()
    film = pc.index_in(
        world.interactions["item_id"], world.items["item_id"].combine_chunks()
    ).to_numpy()
    is_like = world.interactions["rating"].to_numpy() > 3
    for name in TASTE_FACTORS:
        preferred = true_preferences(world, name, liked)
        clear = [values[0] if len(values) == 1 else "unclear" for values in preferred.to_pylist()]
        value = world.item_truth[name].to_numpy()[film]
        matches = np.asarray(clear)[viewer] == value
        assert is_like[matches].mean() > is_like[~matches].mean() + 0.1, name


def test_factor_set_asks_for_every_hidden_factor():
    factor_set = load_factor_set("world")
    for side in ("item", "user"):
        assert [factor.name for factor in factor_set.factors(side)] == list(HIDDEN_FACTORS)


def test_no_value_is_part_of_another():
    for factor in HIDDEN_FACTORS.values():
        for value in factor.values:
            assert sum(value in other for other in factor.values) == 1
            assert value in factor.fact.format(value)
            assert value in factor.preference.format(value)


def test_histories_show_the_end_of_the_prefix(world):
    shown = shown_histories(world).to_pylist()[0]
    rows = world.interactions.filter(pc.field("user_id") == shown["user_id"]).to_pylist()
    titles = dict(zip(*(world.items[c].to_pylist() for c in ("item_id", "title")), strict=True))
    prefix = rows[: min((len(rows) + 1) // 2, 30)][-HISTORY_SHOWN:]
    assert shown["liked"] == [titles[r["item_id"]] for r in prefix if r["rating"] > 3]
    assert shown["disliked"] == [titles[r["item_id"]] for r in prefix if r["rating"] <= 3]


def test_preference_is_what_was_liked_most(world):
    truth = world.item_truth.select(["title", "mood"]).to_pylist()
    of = {
        mood: [film["title"] for film in truth if film["mood"] == mood]
        for mood in ("eerie", "tense")
    }
    lists = pa.array([of["eerie"][:2] + of["tense"][:1], of["eerie"][:1] + of["tense"][:1], []])
    preferences = true_preferences(world, "mood", lists.cast(pa.list_(pa.string()))).to_pylist()
    assert preferences == [["eerie"], ["eerie", "tense"], []]
    with pytest.raises(ValueError, match="no film 'Nothing'"):
        true_preferences(world, "mood", pa.array([["Nothing"]]))


def test_answers_are_graded_by_the_value_they_name():
    answers = pa.array(["It is tense.", "Both tense and eerie.", "It is eerie.", "No idea.", "Eh."])
    accepted = pa.array([["tense"], ["tense"], ["tense", "eerie"], ["eerie"], []])
    assert named_value("mood", answers).to_pylist() == ["tense", None, "eerie", None, None]
    assert is_right("mood", answers, accepted).to_pylist() == [True, False, True, False, True]
