"""Answers about the world are judged by its truth, each against its own film or history."""

from dataclasses import dataclass

import pyarrow as pa
import pytest

from lorecast.knowledge.rows import SCHEMA
from lorecast.world import World, generate
from lorecast.world.facts_audit import with_truth
from lorecast.world.vocabulary import HIDDEN_FACTORS

FILMS = (4, 9, 18)
"""Places of the prepared items in the world's tables."""


@dataclass
class Prepared:
    """What the audit reads of a dataset: three films, three viewers."""

    world: World
    rating_levels = (1, 2, 3, 4, 5)

    def items(self) -> pa.Table:
        return self.world.items.take(list(FILMS)).rename_columns({"item_id": "id"})

    def users(self) -> pa.Table:
        return pa.table(
            {
                "id": ["u1", "u2", "u3"],
                "prompt_item_rows": pa.array([[1, 2, 3], [2], []], pa.list_(pa.int32())),
                "prompt_ratings": pa.array([[5, 1, 4], [1], []], pa.list_(pa.int8())),
            }
        )


@pytest.fixture(scope="module")
def world() -> World:
    return generate()


def judge(
    world: World, *lines: tuple[str, int, str, str, str], prompt_history: int = 10
) -> pa.Table:
    """Judges (side, row, factor, text, status)."""
    ids = {"item": world.items["item_id"].take(list(FILMS)).to_pylist(), "user": ["u1", "u2", "u3"]}
    rows = [
        {
            "side": side,
            "row": row,
            "id": ids[side][row - 1],
            "factor": factor,
            "text": text,
            "status": status,
        }
        for side, row, factor, text, status in lines
    ]
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    return with_truth(table, world, Prepared(world), prompt_history, 4.0)


def value(world: World, film: int, factor: str) -> str:
    return world.item_truth[factor][FILMS[film]].as_py()


def another(world: World, film: int, factor: str) -> str:
    return next(v for v in HIDDEN_FACTORS[factor].values if v != value(world, film, factor))


def test_a_film_is_held_against_its_own_value(world: World) -> None:
    mood = value(world, 0, "mood")
    other = another(world, 0, "mood")
    judged = judge(
        world,
        ("item", 1, "mood", f"It is {mood}.", "ok"),
        ("item", 1, "mood", f"It is {other}.", "ok"),
        ("item", 1, "mood", f"It is {mood} or {other}.", "ok"),
        ("item", 1, "mood", "Who knows?", "ok"),
        ("item", 1, "mood", f"It is {mood}", "truncated"),
        ("item", 1, "plot", f"It is {mood}.", "ok"),
        ("item", 2, "theme", value(world, 1, "theme"), "ok"),
    )
    assert judged["right"].to_pylist() == [True, False, False, False, None, None, True]
    quarter = world.item_truth["popularity_quarter"].to_pylist()
    assert judged["quarter"].to_pylist() == [quarter[FILMS[0]]] * 6 + [quarter[FILMS[1]]]


def test_a_viewer_is_held_against_the_liked_films_of_the_prompt(world: World) -> None:
    first, last = value(world, 0, "director"), value(world, 2, "director")
    assert first != last, "the films of this test differ"
    lines = [("user", 1, "director", name, "ok") for name in (first, last)]
    assert judge(world, *lines)["right"].to_pylist() == [True, True], "tied"
    shorter = judge(world, *lines, prompt_history=2)
    assert shorter["right"].to_pylist() == [False, True], "the first film is not shown"
    assert shorter["quarter"].null_count == 2


def test_who_likes_nothing_has_no_favourite(world: World) -> None:
    mood = value(world, 1, "mood")
    judged = judge(
        world,
        ("user", 2, "mood", f"Prefers {mood} films.", "ok"),
        ("user", 2, "mood", "No favourite yet.", "ok"),
        ("user", 3, "mood", "No favourite yet.", "ok"),
    )
    assert judged["right"].to_pylist() == [False, True, True]
