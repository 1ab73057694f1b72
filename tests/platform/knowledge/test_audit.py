import numpy as np
import pyarrow as pa
import pytest

from lorecast.knowledge.audit import PROMPTS, Audit, FactorFigures, audit
from lorecast.knowledge.findings import findings
from lorecast.knowledge.quality import with_quality
from lorecast.knowledge.rows import SCHEMA

MOODS, COLOURS = ("gloomy", "tender", "eerie"), ("greys", "pinks", "greens")


def knowledge(num: int = 60) -> pa.Table:
    """Items with a mood, a palette that follows from it, a tone that repeats it, one same stock."""
    lines = []
    for row in range(1, num + 1):
        mood = row % 3
        texts = {
            "mood": f"It has a {MOODS[mood]} mood.",
            "palette": f"Shot in {COLOURS[mood]}.",
            "tone": f"It has a {MOODS[mood]} tone, mood.",
            "stock": "35 mm film",
            "maker": f"Made by Ada{row // 2} Lind",
        }
        for chunk, (factor, text) in enumerate(texts.items()):
            truncated = factor == "maker" and row <= num // 4
            lines.append(
                {
                    "side": "item",
                    "row": row,
                    "id": f"i{row}",
                    "field": "facts",
                    "factor": factor,
                    "chunk": chunk,
                    "text": text,
                    "status": "truncated" if truncated else "ok",
                    "key": f"{row}-{factor}",
                }
            )
    return with_quality(pa.Table.from_pylist(lines, schema=SCHEMA))


def prompts(table: pa.Table, text: str) -> pa.Table:
    return pa.table([table["key"], pa.array([text] * table.num_rows)], schema=PROMPTS)


def figures(result: Audit, factor: str) -> FactorFigures:
    [found] = [each for each in result.factors if each.factor == factor]
    return found


def test_figures_of_each_factor_in_the_order_of_chunks() -> None:
    result = audit(knowledge())
    assert [each.factor for each in result.factors] == ["mood", "palette", "tone", "stock", "maker"]
    mood, maker = figures(result, "mood"), figures(result, "maker")
    assert (mood.texts, mood.distinct, mood.words) == (60, 3, (5, 5, 5))
    assert mood.top_share == pytest.approx(1 / 3)
    assert (mood.copied, mood.near_copied) == (1, 1)
    assert maker.status == pytest.approx({"ok": 0.75, "truncated": 0.25})
    assert maker.names is None
    assert maker.accuracy == {}


def test_redundancy_is_seen_in_words_and_in_what_answers_tell() -> None:
    [item] = audit(knowledge()).redundancy
    mood, palette, tone, stock = (
        item.factors.index(f) for f in ("mood", "palette", "tone", "stock")
    )
    assert item.overlap[mood, tone] == item.overlap[tone, mood] == pytest.approx(5 / 6)
    assert item.overlap[mood, palette] == 0
    assert item.told[mood, palette] == item.told[palette, mood] == 1
    assert item.told[stock, mood] == 0
    assert np.isnan(item.told[mood, stock]), "there are no wrong guesses about a constant"
    assert np.isnan(item.overlap[mood, mood])
    assert np.isnan(item.told[item.factors.index("maker"), mood]), "its answers hardly repeat"


def test_names_are_held_against_the_prompt() -> None:
    table = knowledge()
    maker = figures(audit(table, prompts(table, "Who is Lind?")), "maker")
    assert maker.names == 1
    assert maker.names_from_prompt == 0
    assert figures(audit(table, prompts(table, "?").slice(0, 0)), "maker").names is None


def test_accuracy_by_popularity() -> None:
    table = knowledge()
    row = table["row"].to_numpy()
    table = table.append_column("right", pa.array(row % 2 == 0))
    table = table.append_column("quarter", pa.array(1 + row % 4, pa.int8()))
    assert figures(audit(table), "mood").accuracy == {"all": 0.5, "popular": 1.0, "rare": 0.0}


def test_findings_name_the_culprit() -> None:
    table = knowledge()
    row = table["row"].to_numpy()
    table = table.append_column("right", pa.array(row % 2 == 0))
    table = table.append_column("quarter", pa.array(1 + row % 4, pa.int8()))
    said = findings(audit(table, prompts(table, "Who?")))
    for part in (
        "item factor `maker` of `facts`: 25% of the answers are truncated; a larger",
        "`stock` of `facts`: 100% of the answers are the same (“35 mm film”); it carries nothing",
        "`tone` repeats `mood` (mean overlap 0.83)",
        "`palette` repeats `mood` in other words: knowing one answer avoids 100%",
        "`facts`, `mood`, `palette`, `tone`, `maker`: 50% of the answers are true, 100% about",
        "`maker` of `facts`: 100% of the names it mentions are not in the prompt",
    ):
        assert [sentence for sentence in said if part in sentence], (part, said)


def test_good_knowledge_has_no_findings(rng: np.random.Generator) -> None:
    lines = [
        {
            "side": "item",
            "row": row,
            "field": "facts",
            "factor": factor,
            "chunk": chunk,
            "text": " ".join(f"w{n}" for n in rng.integers(1000, size=12)),
            "status": "ok",
        }
        for row in range(50)
        for chunk, factor in enumerate(("plot", "style"))
    ]
    assert findings(audit(with_quality(pa.Table.from_pylist(lines, schema=SCHEMA)))) == ()


def test_no_usable_text_is_audited_too() -> None:
    table = knowledge(8).filter(pa.array([False] * 39 + [True]))
    table = table.set_column(table.schema.get_field_index("status"), "status", [["failed"]])
    result = audit(table)
    assert [each.status for each in result.factors] == [{"failed": 1.0}]
    assert result.redundancy == ()
    assert "failed; run generate again" in findings(result)[0]
    assert audit(table.slice(0, 0)).factors == ()
