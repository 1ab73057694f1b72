"""Factor sets: shipped ones ask as written, broken ones say what to fix."""

import pickle
from pathlib import Path

import pytest

from lorecast.errors import InputError, KnowledgeError
from lorecast.knowledge.factors import load_factor_set, shipped_factor_sets

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
}


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


@pytest.mark.parametrize("name", shipped_factor_sets())
@pytest.mark.parametrize("side", ["item", "user"])
def test_shipped_sets_ask_each_factor_in_its_own_words(name, side):
    factor_set = load_factor_set(name)
    prompts = [
        factor_set.messages(side, factor.name, VARIABLES[side])[-1]["content"]
        for factor in factor_set.factors(side)
    ]
    assert len(set(prompts)) == len(prompts) >= 7
    for factor, prompt in zip(factor_set.factors(side), prompts, strict=True):
        assert factor.question in prompt
        assert "Silver Harbor" in prompt


def test_world_prompts_read_as_written():
    world = load_factor_set("world")
    assert world.messages("item", "mood", VARIABLES["item"]) == [
        {"role": "user", "content": 'The film "Silver Harbor" (1986). What mood does it have?'}
    ]
    assert world.messages("user", "pace", VARIABLES["user"])[0]["content"] == (
        'A viewer liked "Silver Harbor" and disliked "Iron Swan". '
        "Which pace does this viewer prefer?"
    )


def test_system_message_comes_first():
    roles = [
        m["role"] for m in load_factor_set("films").messages("item", "mood", VARIABLES["item"])
    ]
    assert roles == ["system", "user"]


def test_own_set_by_path(folder):
    factor_set = load_factor_set(folder)
    chat = factor_set.messages("item", "plot", {"item": {"title": "Anna & <Ben>"}})
    assert chat == [{"role": "user", "content": "Anna & <Ben>: What happens?"}]


def test_digest_follows_every_word(folder):
    before = load_factor_set(folder).digest
    assert load_factor_set(folder).digest == before
    (folder / "user.j2").write_text("{{ disliked | join(', ') }}: {{ factor.question }}\n")
    changed_template = load_factor_set(folder).digest
    (folder / "factors.yaml").write_text(
        'item: {plot: "What occurs?"}\nuser: {mood: "Which mood?"}\n'
    )
    assert len({before, changed_template, load_factor_set(folder).digest}) == 3


def test_survives_pickling_after_use(folder):
    factor_set = load_factor_set(folder)
    chat = factor_set.messages("user", "mood", VARIABLES["user"])
    assert (
        pickle.loads(pickle.dumps(factor_set)).messages("user", "mood", VARIABLES["user"]) == chat
    )


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        ("item.j2", "{{ itm.title }}", r"item\.j2: unknown variable 'itm'.*factor, item"),
        ("item.j2", "{{ item.title ", r"item\.j2, line 1"),
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


def test_not_utf8(folder):
    (folder / "user.j2").write_bytes(b"caf\xe9")
    with pytest.raises(InputError, match=r"user\.j2 is not UTF-8"):
        load_factor_set(folder)


def test_missing_file_and_folder(folder):
    (folder / "user.j2").unlink()
    with pytest.raises(InputError, match=r"'mine' has no user\.j2"):
        load_factor_set(folder)
    with pytest.raises(InputError, match=r"no factor set 'nowhere'.*films, world"):
        load_factor_set("nowhere")


def test_column_the_table_lacks_is_named(folder):
    factor_set = load_factor_set(folder)
    with pytest.raises(KnowledgeError, match=r"item\.j2.*'mine'.*title"):
        factor_set.messages("item", "plot", {"item": {"name": "Silver Harbor"}})


def test_unknown_factor_lists_the_known(folder):
    with pytest.raises(KnowledgeError, match="no user factor 'plot'; it has: mood"):
        load_factor_set(folder).messages("user", "plot", VARIABLES["user"])
