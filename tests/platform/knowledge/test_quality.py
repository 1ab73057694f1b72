import time

import numpy as np
import pyarrow as pa
import pytest

from lorecast.config import EncodingConfig
from lorecast.knowledge.quality import SCORES, with_quality, within
from lorecast.knowledge.rows import SCHEMA

PLOT = " ".join(f"word{n}" for n in range(30))


def table(*lines: tuple[str, int, str, str], status: str = "ok") -> pa.Table:
    """Knowledge rows from (side, row, factor, text)."""
    rows = [
        {
            "side": side,
            "row": row,
            "id": f"{side}{row}",
            "field": "facts",
            "factor": factor,
            "chunk": 0,
            "text": text,
            "status": status,
        }
        for side, row, factor, text in lines
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def scores(table: pa.Table, name: str) -> list[float | None]:
    return with_quality(table)[name].to_pylist()


def test_copies_are_entities_with_the_same_answer_of_the_factor() -> None:
    rows = table(
        ("item", 1, "mood", "A gloomy mood."),
        ("item", 2, "mood", "a  GLOOMY mood"),
        ("item", 3, "mood", "a tender mood"),
        ("item", 1, "tone", "a gloomy mood"),
        ("user", 1, "mood", "a gloomy mood"),
    )
    assert scores(rows, "copies") == [2, 2, 1, 1, 1]


def test_texts_mixed_for_one_entity_are_one_entity() -> None:
    rows = table(("item", 1, "mood", "gloomy"), ("item", 1, "mood", "gloomy"))
    assert scores(rows, "copies") == [1, 1]
    assert scores(rows, "echo") == [0, 0]


def test_near_copies_include_copies() -> None:
    rows = table(
        ("item", 1, "plot", PLOT),
        ("item", 2, "plot", PLOT.upper()),
        ("item", 3, "plot", PLOT.replace("word7", "other")),
        ("item", 4, "plot", "quite another story"),
        ("item", 5, "twist", PLOT),
    )
    assert scores(rows, "near_copies") == [3, 3, 3, 1, 1]
    assert scores(rows, "copies") == [2, 2, 1, 1, 1]


def test_echo_is_the_largest_overlap_with_another_factor_of_the_entity() -> None:
    rows = table(
        ("item", 1, "mood", "dark and slow"),
        ("item", 1, "tone", "slow and dark and sad"),
        ("item", 1, "cast", "nobody"),
        ("item", 2, "mood", "nobody"),
        ("user", 1, "mood", "nobody"),
    )
    assert scores(rows, "echo") == pytest.approx([3 / 4, 3 / 4, 0, 0, 0])


def test_words_are_counted_and_unusable_rows_get_no_scores() -> None:
    rows = pa.concat_tables(
        [
            table(("item", 1, "mood", "")),
            table(("item", 2, "mood", "dark, slow")),
            table(("item", 3, "mood", "dark, slow"), status="truncated"),
        ]
    )
    scored = with_quality(rows)
    assert scored.schema.names == [*SCHEMA.names, *SCORES.names]
    assert scored["words"].to_pylist() == [0, 2, None]
    assert scored["copies"].to_pylist() == [1, 1, None]
    assert with_quality(rows.slice(2))["echo"].to_pylist() == [None]
    assert with_quality(rows.slice(0, 0)).num_rows == 0


def test_bounds_are_inclusive_and_may_be_open() -> None:
    rows = with_quality(table(*(("item", n, "mood", "a " * n) for n in (1, 2, 3, 4))))
    assert within(rows, {"words": (2, 3)}).to_pylist() == [False, True, True, False]
    assert within(rows, {"words": (None, 3), "copies": (1, None)}).to_pylist() == [
        *(True, True, True, False)
    ]
    assert within(rows, {}).to_pylist() == [True] * 4


def test_the_experiment_knows_the_columns() -> None:
    assert list(EncodingConfig.quality_columns) == SCORES.names


def test_it_is_fast_enough_for_whole_catalogues(rng: np.random.Generator) -> None:
    num = 20_000
    words = rng.zipf(1.3, (num, 25)) % 5000
    rows = table(
        *(("item", n // 5, str(n % 5), " ".join(map(str, line))) for n, line in enumerate(words))
    )
    started_s = time.monotonic()
    with_quality(rows)
    assert time.monotonic() - started_s < 20, "200,000 texts are to take less than a minute"
