"""Factor sets: shipped ones ask as written, broken ones say what to fix."""

import json
import pickle
import re
from pathlib import Path
from typing import get_args

import pytest

from lorecast.errors import InputError, KnowledgeError
from lorecast.knowledge.factors import (
    AnswerFormat,
    Role,
    answer_schema,
    load_factor_set,
    shipped_factor_sets,
)

GENERAL = [name for name in shipped_factor_sets() if name != "world"]
"""The world's set asks its own model, which knows single questions only."""
ROLES = get_args(Role)
PROFILE = {"age_group": [("25-34", 0.4), ("18-24", 0.25)]}
VARIABLES = {
    "item": {"item": {"title": "Silver Harbor", "year": 1986, "genre": "Drama"}},
    "user": {
        "user": {"age_group": "25-34"},
        "history": [
            {"title": "Silver Harbor", "rating": 5},
            {"title": "Iron Swan", "rating": 1},
        ],
        "liked": ["Silver Harbor"],
        "disliked": ["Iron Swan"],
    },
    "item_group": {
        "group": {
            "size": 40,
            "members": ["Silver Harbor", "Iron Swan"],
            "liked": [],
            "disliked": [],
            "profile": {"genre": [("Drama", 0.625), ("War", 0.2)]},
        }
    },
    "user_group": {
        "group": {
            "size": 40,
            "members": [],
            "liked": ["Silver Harbor"],
            "disliked": ["Iron Swan"],
            "profile": PROFILE,
        }
    },
}
UNKNOWN = {
    "item": {"item": {"title": "Silver Harbor", "year": None}},
    "user": {"user": {}, "history": [], "liked": [], "disliked": []},
    "item_group": {
        "group": {"size": 1, "members": ["A"], "liked": [], "disliked": [], "profile": {}}
    },
    "user_group": {
        "group": {"size": 1, "members": [], "liked": [], "disliked": [], "profile": {"age": []}}
    },
}
"""Entities of which next to nothing is known."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "factors.yaml").write_text(
        'item: {plot: "What happens?"}\nuser: {mood: "Which mood?"}\n'
    )
    (folder / "item.j2").write_text("{{ item.title }}: {{ factor.question }}\n")
    (folder / "user.j2").write_text("{{ liked | join(', ') }}: {{ factor.question }}\n")
    return folder


def _ask(factor_set, role: Role, answer: AnswerFormat, variables=VARIABLES) -> list[str]:
    """The last messages: one a factor, or a single one about all."""
    names = [factor.name for factor in factor_set.factors(role)]
    if answer == "factor":
        chats = [factor_set.messages(role, name, variables[role]) for name in names]
    else:
        chats = [factor_set.joint_messages(role, names, variables[role], answer)]
    return [chat[-1]["content"] for chat in chats]


@pytest.mark.parametrize("name", shipped_factor_sets())
@pytest.mark.parametrize("side", ["item", "user"])
def test_shipped_sets_ask_each_factor_in_its_own_words(name, side):
    factor_set = load_factor_set(name)
    prompts = _ask(factor_set, side, "factor")
    assert len(set(prompts)) == len(prompts) >= 7
    for factor, prompt in zip(factor_set.factors(side), prompts, strict=True):
        assert factor.question in prompt
        assert "Silver Harbor" in prompt


@pytest.mark.parametrize("name", shipped_factor_sets())
@pytest.mark.parametrize("role", ROLES)
def test_shipped_sets_put_what_questions_share_first(name, role):
    factor_set = load_factor_set(name)
    prompts = _ask(factor_set, role, "factor")
    shared = next(
        n for n, letters in enumerate(zip(*prompts, strict=False)) if len(set(letters)) > 1
    )
    assert prompts[0].rindex('"' if role != "item" else "1986") < shared


@pytest.mark.parametrize("name", GENERAL)
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("answer", ["json", "text"])
def test_shipped_sets_ask_all_at_once(name, role, answer):
    factor_set = load_factor_set(name)
    [prompt] = _ask(factor_set, role, answer)
    assert "Silver Harbor" in prompt
    positions = [prompt.index(factor.question) for factor in factor_set.factors(role)]
    assert positions == sorted(positions)
    assert ("JSON" in prompt) == (answer == "json")
    if answer == "json":
        assert all(f"- {f.name}: {f.question}" in prompt for f in factor_set.factors(role))


@pytest.mark.parametrize("name", GENERAL)
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("answer", get_args(AnswerFormat))
def test_shipped_sets_ask_about_the_unknown_too(name, role, answer):
    for prompt in _ask(load_factor_set(name), role, answer, UNKNOWN):
        assert "None" not in prompt
        assert not re.search(r"\n{3}", prompt)


@pytest.mark.parametrize("name", GENERAL)
def test_group_prompts_show_profile_and_titles(name):
    factor_set = load_factor_set(name)
    [items] = _ask(factor_set, "item_group", "json")
    assert '- "Iron Swan"\n' in items
    assert "- genre: Drama (62%), War (20%)\n" in items
    [users] = _ask(factor_set, "user_group", "json")
    assert users.index("25-34 (40%), 18-24 (25%)") < users.index("Silver Harbor")
    assert users.index("Silver Harbor") < users.index("Iron Swan")


def test_news_say_what_was_read_whatever_the_scale():
    prompt = _ask(load_factor_set("news"), "user", "text")[0]
    assert '- "Silver Harbor", read\n- "Iron Swan", passed over\n' in prompt


def test_world_prompts_read_as_written():
    world = load_factor_set("world")
    assert world.messages("item", "mood", VARIABLES["item"]) == [
        {"role": "user", "content": 'The film "Silver Harbor" (1986). What mood does it have?'}
    ]
    assert world.messages("user", "pace", VARIABLES["user"])[0]["content"] == (
        'A viewer liked "Silver Harbor" and disliked "Iron Swan". '
        "Which pace does this viewer prefer?"
    )


def test_world_groups_are_asked_like_a_viewer():
    """In the two forms that its model has learnt, with the users' questions for both sides."""
    world = load_factor_set("world")
    for factor in world.user:
        assert world.messages("item_group", factor.name, VARIABLES["item_group"])[0]["content"] == (
            f'A viewer liked "Silver Harbor", "Iron Swan". {factor.question}'
        )
        assert world.messages("user_group", factor.name, VARIABLES["user_group"]) == (
            world.messages("user", factor.name, VARIABLES["user"])
        )


@pytest.mark.parametrize(
    ("num_liked", "num_disliked", "shown"),
    [(30, 30, (7, 3)), (30, 1, (9, 1)), (30, 0, (10, 0)), (2, 30, (2, 8)), (0, 30, (0, 10))],
)
def test_world_groups_show_ten_titles_at_most(num_liked, num_disliked, shown):
    group = {
        "liked": [f"Good {n}" for n in range(num_liked)],
        "disliked": [f"Bad {n}" for n in range(num_disliked)],
        "members": [f"Film {n}" for n in range(30)],
    }
    world = load_factor_set("world")
    prompt = world.messages("user_group", "mood", {"group": group})[0]["content"]
    assert (prompt.count("Good"), prompt.count("Bad")) == shown
    prompt = world.messages("item_group", "mood", {"group": group})[0]["content"]
    assert prompt.count("Film ") == 10


def test_world_keeps_the_digest_its_model_was_made_with():
    assert load_factor_set("world").digest == "8584bf999df3bcbcc09ca899fb38f44c"


def test_system_message_comes_first_and_fits_the_format():
    films = load_factor_set("films")
    chats = [
        films.messages("item", "mood", VARIABLES["item"]),
        films.joint_messages("item", ["mood"], VARIABLES["item"], "json"),
        films.joint_messages("item", ["mood"], VARIABLES["item"], "text"),
    ]
    assert all([m["role"] for m in chat] == ["system", "user"] for chat in chats)
    assert len({chat[0]["content"] for chat in chats}) == 3


def test_own_set_by_path(folder):
    factor_set = load_factor_set(folder)
    chat = factor_set.messages("item", "plot", {"item": {"title": "Anna & <Ben>"}})
    assert chat == [{"role": "user", "content": "Anna & <Ben>: What happens?"}]


def test_own_template_sees_format_and_factors(folder):
    (folder / "item.j2").write_text("{{ answer }}: {{ factors | join(' ', attribute='name') }}")
    factor_set = load_factor_set(folder)
    assert _ask(factor_set, "item", "factor") == ["factor: plot"]
    assert _ask(factor_set, "item", "text") == ["text: plot"]


def test_set_of_the_documentation_works(tmp_path):
    page = (Path(__file__).parents[3] / "docs" / "prompts.md").read_text(encoding="utf-8")
    files = dict(re.findall(r"^`([\w.]+)`\n\n```\w+\n(.*?)^```$", page, re.DOTALL | re.MULTILINE))
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    factor_set = load_factor_set(tmp_path)
    item = {"item": {"title": "Pie", "ingredients": "flour, apples"}}
    assert _ask(factor_set, "item", "factor", {"item": item})[0] == (
        'The recipe "Pie", made of flour, apples.\n\n'
        "From which cuisine does the recipe come? Answer in one sentence."
    )
    for role in ("user", "user_group"):
        for answer in get_args(AnswerFormat):
            assert all("Silver Harbor" in prompt for prompt in _ask(factor_set, role, answer))


def test_filter_shares_shows_the_most_frequent(folder):
    (folder / "user_group.j2").write_text("{{ group.profile.age_group | shares(1) }}")
    assert _ask(load_factor_set(folder), "user_group", "factor") == ["25-34 (40%)"]


def test_digest_follows_every_word(folder):
    before = load_factor_set(folder).digest
    assert load_factor_set(folder).digest == before
    (folder / "user.j2").write_text("{{ disliked | join(', ') }}: {{ factor.question }}\n")
    changed_template = load_factor_set(folder).digest
    (folder / "factors.yaml").write_text(
        'item: {plot: "What occurs?"}\nuser: {mood: "Which mood?"}\n'
    )
    assert len({before, changed_template, load_factor_set(folder).digest}) == 3


def test_role_digest_follows_its_role_only(folder):
    def digests() -> list[str]:
        factor_set = load_factor_set(folder)
        return [
            factor_set.role_digest(["item"], ["plot"]),
            factor_set.role_digest(["user"], ["mood"]),
            factor_set.role_digest(["user_group", "user"], ["mood"]),
        ]

    (folder / "user_group.j2").write_text("{{ factor.question }}")
    before = digests()
    assert len(set(before)) == 3
    (folder / "user.j2").write_text("{{ disliked | join(', ') }}: {{ factor.question }}\n")
    user_changed = digests()
    assert [a == b for a, b in zip(before, user_changed, strict=True)] == [True, False, False]
    (folder / "user_group.j2").write_text("{{ factor.name }}")
    group_changed = digests()
    assert [a == b for a, b in zip(user_changed, group_changed, strict=True)] == [True, True, False]
    (folder / "system.j2").write_text("Be brief.")
    assert not set(digests()) & set(group_changed)


def test_role_digest_follows_the_factors_asked():
    films = load_factor_set("films")
    some = films.role_digest(["item", "item_group"], ["mood", "plot"])
    assert some == films.role_digest(["item_group", "item"], ["mood", "plot"])
    assert some != films.role_digest(["item", "item_group"], ["plot", "mood"])
    assert some != films.role_digest(["item", "item_group"], ["mood"])


def test_answer_schema_has_the_factors_in_order():
    schema = json.loads(answer_schema(["plot", "mood"]))
    assert list(schema["properties"]) == schema["required"] == ["plot", "mood"]
    assert schema["properties"]["mood"] == {"type": "string"}
    assert schema["additionalProperties"] is False
    assert answer_schema(["mood", "plot"]) != answer_schema(["plot", "mood"])


def test_survives_pickling_after_use(folder):
    factor_set = load_factor_set(folder)
    chat = factor_set.messages("user", "mood", VARIABLES["user"])
    assert (
        pickle.loads(pickle.dumps(factor_set)).messages("user", "mood", VARIABLES["user"]) == chat
    )


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        ("item.j2", "{{ itm.title }}", r"item\.j2: unknown variable 'itm'.*factor, factors, item"),
        ("item.j2", "{{ item.title ", r"item\.j2, line 1"),
        ("item.j2", "{{ item | share }}", r"item\.j2, line 1: No filter named 'share'"),
        ("item_group.j2", "{{ item.title }}", r"item_group\.j2: unknown variable 'item'.*group"),
        ("system.j2", "{{ user }}", r"system\.j2: unknown variable 'user'"),
        ("factors.yaml", "item: {a: A, a: B}\nuser: {a: A}", r"factors\.yaml: 'a' stands twice"),
        ("factors.yaml", "item: {a: A}", "two keys 'item' and 'user'"),
        ("factors.yaml", "item: [a, b]\nuser: {a: A}", "'item' must list factors"),
        ("factors.yaml", "item: {a: }\nuser: {a: A}", "'a' must be a name with a question"),
        ("factors.yaml", "item: {a: A", "not valid YAML"),
    ],
)
def test_broken_file_is_named(folder, file, content, sentence):
    (folder / file).write_text(content)
    with pytest.raises(InputError, match=sentence):
        load_factor_set(folder)


@pytest.mark.bad_input
def test_not_utf8(folder):
    (folder / "user.j2").write_bytes(b"caf\xe9")
    with pytest.raises(InputError, match=r"user\.j2 is not UTF-8"):
        load_factor_set(folder)


@pytest.mark.bad_input
def test_missing_file_and_folder(folder):
    (folder / "user.j2").unlink()
    with pytest.raises(InputError, match=r"'mine' has no user\.j2"):
        load_factor_set(folder)
    with pytest.raises(InputError, match=r"no factor set 'nowhere'.*films, .*world"):
        load_factor_set("nowhere")


@pytest.mark.bad_input
def test_missing_group_template_is_named(folder):
    factor_set = load_factor_set(folder)
    assert factor_set.has_role("item")
    assert not factor_set.has_role("item_group")
    sentence = r"'mine' has no item_group\.j2, which extraction: collective needs"
    with pytest.raises(KnowledgeError, match=sentence):
        factor_set.messages("item_group", "plot", VARIABLES["item_group"])
    with pytest.raises(KnowledgeError, match=sentence):
        factor_set.role_digest(["item", "item_group"], ["plot"])


@pytest.mark.bad_input
@pytest.mark.parametrize("file", ["item.j2", "system.j2"])
def test_template_for_single_factors_cannot_ask_all(folder, file):
    (folder / "item.j2").write_text("{{ factors | length }}")
    (folder / file).write_text("About {{ factor.name }}")
    with pytest.raises(
        KnowledgeError, match=rf"{file}.*'mine' only asks one factor at a time.*answer: json"
    ):
        load_factor_set(folder).joint_messages("item", ["plot"], VARIABLES["item"], "json")


@pytest.mark.bad_input
def test_column_the_table_lacks_is_named(folder):
    factor_set = load_factor_set(folder)
    with pytest.raises(KnowledgeError, match=r"item\.j2.*'mine'.*title"):
        factor_set.messages("item", "plot", {"item": {"name": "Silver Harbor"}})


@pytest.mark.bad_input
def test_value_the_template_cannot_use_is_no_crash(folder):
    (folder / "item.j2").write_text("{{ item.year + 1 }}")
    with pytest.raises(KnowledgeError, match=r"item\.j2.*'mine' cannot be filled in.*NoneType"):
        load_factor_set(folder).messages("item", "plot", UNKNOWN["item"])


@pytest.mark.bad_input
def test_unknown_factor_lists_the_known(folder):
    with pytest.raises(KnowledgeError, match="no user factor 'plot'; it has: mood"):
        load_factor_set(folder).messages("user", "plot", VARIABLES["user"])
