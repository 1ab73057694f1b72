"""Suggested factor sets: usable answers become a folder, unusable ones a clear sentence."""

import json
from pathlib import Path

import pytest

from lorecast.errors import InputError, KnowledgeError
from lorecast.knowledge.factors import load_factor_set, shipped_factor_sets
from lorecast.knowledge.suggest import (
    check_new_folder,
    parse_suggestion,
    suggestion_messages,
    suggestion_schema,
    write_factor_set,
)


def _factors(*names: str) -> list[dict[str, str]]:
    return [{"name": name, "question": f"What about {name}?"} for name in names]


def _answer(**changes: object) -> dict[str, object]:
    answer = {
        "item": _factors("cuisine", "effort", "diet"),
        "user": _factors("cuisine", "skill", "diet", "time"),
        "closest": "books",
    }
    return answer | changes


def test_prompt_names_scenario_and_choice():
    [message] = suggestion_messages("  recipes\n for busy cooks ")
    assert "Scenario: recipes for busy cooks\n" in message["content"]
    assert "books, films, music, news, products" in message["content"]
    assert "world" not in message["content"]


def test_schema_fits_what_the_prompt_asks_for():
    schema = json.loads(suggestion_schema())
    assert schema["required"] == ["item", "user", "closest"]
    assert set(schema["properties"]["closest"]["enum"]) == set(shipped_factor_sets()) - {"world"}
    factor = schema["properties"]["user"]["items"]
    assert factor["required"] == ["name", "question"]


@pytest.mark.parametrize(
    "around",
    [
        "{}",
        "```json\n{}\n```",
        'Sure! A set of {{factors}} like {{"item": 1}}:\n{}\nTell me more.',
    ],
)
def test_words_around_the_object_do_not_matter(around):
    suggestion = parse_suggestion(around.format(json.dumps(_answer(), indent=1)))
    assert [factor.name for factor in suggestion.item] == ["cuisine", "effort", "diet"]
    assert suggestion.user[1].question == "What about skill?"
    assert suggestion.closest == "books"


def test_names_become_column_like():
    answer = _answer(item=_factors(" Cooking  Time ", "Küche", "spice-level!"))
    suggestion = parse_suggestion(json.dumps(answer))
    assert [factor.name for factor in suggestion.item] == ["cooking_time", "küche", "spice_level"]


@pytest.mark.parametrize("closest", ["world", "recipes", None, ["books"]])
def test_unknown_field_is_worded_neutrally(closest):
    assert parse_suggestion(json.dumps(_answer(closest=closest))).closest == "products"


def test_written_folder_is_a_factor_set(tmp_path: Path):
    answer = _answer(
        item=[
            {"name": "no", "question": 'Is it: "sweet" #or not?'},
            *_factors("größe", "plain"),
        ]
    )
    suggestion = parse_suggestion(json.dumps(answer))
    written = write_factor_set(tmp_path / "new" / "mine", "recipes\nfor cooks", suggestion)
    assert written == load_factor_set(tmp_path / "new" / "mine")
    assert (written.item, written.user) == (suggestion.item, suggestion.user)
    assert written.templates == load_factor_set("books").templates
    text = (tmp_path / "new" / "mine" / "factors.yaml").read_text(encoding="utf-8")
    assert text.startswith("# Factors for: recipes for cooks\n")
    assert "shipped set 'books'" in text
    prompt = written.joint_messages("item", ["no"], {"item": {"title": "Pie"}}, "json")
    assert 'Is it: "sweet" #or not?' in prompt[-1]["content"]


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("The mood is blue.", "no JSON object.*begins: 'The mood is blue.'"),
        ('{"item": [', "no JSON object"),
        (json.dumps({"item": _factors("a", "b", "c")}), "no JSON object with the keys"),
        (json.dumps(_answer(item="mood")), "'item' must list at least 3 factors"),
        (json.dumps(_answer(user=_factors("a", "b"))), "'user' must list at least 3 factors"),
        (json.dumps(_answer(item=["a", "b", "c"])), "'item' lacks a name or a question"),
        (json.dumps(_answer(user=_factors("a", "b", "!?"))), "'user' lacks a name"),
        (json.dumps(_answer(item=_factors("A b", "c", "a_b"))), "'item' names 'a_b' twice"),
        (
            json.dumps(_answer(item=[{"name": "a", "question": 1}] * 3)),
            "'item' lacks a name or a question",
        ),
    ],
)
def test_unusable_answer_is_shown(answer, reason):
    with pytest.raises(KnowledgeError, match=reason):
        parse_suggestion(answer)


@pytest.mark.bad_input
def test_long_unusable_answer_is_shortened():
    with pytest.raises(KnowledgeError) as raised:
        parse_suggestion("word\n" * 1000)
    assert "word word" in str(raised.value)
    assert len(str(raised.value)) < 700


@pytest.mark.bad_input
def test_no_folder_is_overwritten(tmp_path: Path):
    suggestion = parse_suggestion(json.dumps(_answer()))
    with pytest.raises(InputError, match="exists already: name another"):
        write_factor_set(tmp_path, "recipes", suggestion)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        write_factor_set(tmp_path / "file" / "mine", "recipes", suggestion)


@pytest.mark.bad_input
def test_name_of_a_shipped_set_would_never_be_found():
    with pytest.raises(InputError, match="'books' is the name of a shipped factor set"):
        check_new_folder(Path("books"))


@pytest.mark.bad_input
def test_blank_scenario():
    with pytest.raises(InputError, match="scenario is blank"):
        suggestion_messages(" \n")
