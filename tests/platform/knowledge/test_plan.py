"""The plan: every entity × field × factor once, prompts that show the past only, stable keys."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from lorecast.config import DatasetConfig, ExperimentConfig, GeneratedField, InteractionColumns
from lorecast.data.dataset import Dataset
from lorecast.errors import ConfigError
from lorecast.knowledge.plan import Plan

FACTORS = """
item: {mood: "What mood has it?", theme: "What is it about?"}
user: {mood: "Which mood?", theme: "Which theme?"}
"""
ITEM = "{{ item.title }}, {{ item.genre }}. {{ factor.question }}"
USER = (
    "{{ user.region }}: {% for h in history %}{{ h.title }}={{ h.rating }} {% endfor %}"
    "+{{ liked | join(',') }} -{{ disliked | join(',') }}. {{ factor.question }}"
)


def write_factor_set(folder: Path, factors: str = FACTORS) -> str:
    folder.mkdir(parents=True)
    (folder / "factors.yaml").write_text(factors)
    (folder / "item.j2").write_text(ITEM)
    (folder / "user.j2").write_text(USER)
    return str(folder)


def config(factor_set: str, **changes: object) -> ExperimentConfig:
    fields = (
        GeneratedField(name="facts", side="item", factor_set=factor_set),
        GeneratedField(name="taste", side="user", factor_set=factor_set),
    )
    knowledge = ExperimentConfig().knowledge.model_copy(update={"fields": fields, **changes})
    return ExperimentConfig(knowledge=knowledge)


def rows(plan: Plan) -> pa.Table:
    return pa.concat_tables(plan.blocks(entities_per_block=7))


def changed(before: Plan, after: Plan) -> pa.Table:
    """Rows of `after` with a key that `before` lacks."""
    old, new = rows(before), rows(after)
    return new.filter(pc.invert(pc.is_in(new["key"], value_set=old["key"].combine_chunks())))


@pytest.fixture
def factor_set(tmp_path: Path) -> str:
    return write_factor_set(tmp_path / "scene")


def test_each_place_once_entity_by_entity(tiny_dataset: Dataset, factor_set: str) -> None:
    plan = Plan.of(config(factor_set), tiny_dataset, "model")
    table = rows(plan)
    assert table.num_rows == plan.num_prompts == 2 * (40 + 30)
    assert len(pc.unique(table["key"])) == table.num_rows
    assert table.slice(0, 4).select(["side", "row", "factor", "chunk"]).to_pylist() == [
        {"side": "item", "row": 1 + place // 2, "factor": ("mood", "theme")[place % 2]}
        | {"chunk": place % 2}
        for place in range(4)
    ]


def test_user_prompts_show_the_last_rated_titles_before_the_cut_off(
    tiny_dataset: Dataset, factor_set: str
) -> None:
    plan = Plan.of(config(factor_set, prompt_history=3), tiny_dataset, "model")
    user = tiny_dataset.users().slice(9, 1).to_pylist()[0]
    row = rows(plan).filter(pc.field("side") == "user").slice(18, 1).to_pylist()[0]
    titles = [f"Film {item}" for item in user["prompt_item_rows"][-3:]]
    ratings = user["prompt_ratings"][-3:]
    assert len(user["prompt_item_rows"]) > 3
    shown = "".join(f"{title}={rating} " for title, rating in zip(titles, ratings, strict=True))
    liked = ",".join(title for title, rating in zip(titles, ratings, strict=True) if rating >= 4)
    rest = ",".join(title for title, rating in zip(titles, ratings, strict=True) if rating < 4)
    prompt = json.loads(row["chat"])[-1]["content"]
    assert prompt == f"{user['region']}: {shown}+{liked} -{rest}. Which mood?"
    assert row["history_end"] == user["history_end"]


def test_with_labels_only_the_ones_are_liked(tiny_dataset: Dataset, factor_set: str) -> None:
    by_label = DatasetConfig(
        source="tables", interactions=InteractionColumns(file="clicks.csv", label="click")
    )
    labelled = config(factor_set).model_copy(update={"dataset": by_label})
    assert Plan.of(labelled, tiny_dataset, "model").liked_from == 1.0


def test_a_changed_question_asks_only_that_factor(tiny_dataset: Dataset, tmp_path: Path) -> None:
    before = write_factor_set(tmp_path / "a" / "scene")
    after = write_factor_set(
        tmp_path / "b" / "scene", FACTORS.replace("What is it about?", "Its theme?")
    )
    difference = changed(
        Plan.of(config(before), tiny_dataset, "model"),
        Plan.of(config(after), tiny_dataset, "model"),
    )
    assert difference.num_rows == 40
    assert set(difference["factor"].to_pylist()) == {"theme"}


def test_new_items_ask_only_for_themselves(
    make_tiny_dataset: Callable[..., Dataset], factor_set: str
) -> None:
    small, large = make_tiny_dataset(num_users=2), make_tiny_dataset(num_users=2, num_items=44)
    only_items = config(factor_set).knowledge.fields[:1]
    plans = [
        Plan.of(config(factor_set, fields=only_items), dataset, "model")
        for dataset in (small, large)
    ]
    difference = changed(*plans)
    new = set(difference["row"].to_pylist()) - set(range(1, 41))
    assert new == {41, 42, 43, 44}


def test_model_and_sampling_ask_everything_anew_and_budgets_nothing(
    tiny_dataset: Dataset, factor_set: str
) -> None:
    base = config(factor_set)
    before = Plan.of(base, tiny_dataset, "model")
    assert changed(before, Plan.of(base, tiny_dataset, "other")).num_rows == before.num_prompts

    def with_llm(**changes: object) -> Plan:
        llm = base.knowledge.llm.model_copy(update=changes)
        return Plan.of(config(factor_set, llm=llm), tiny_dataset, "model")

    assert changed(before, with_llm(max_tokens=64)).num_rows == before.num_prompts
    assert changed(before, with_llm(max_model_len=512, seed=3)).num_rows == 0, "greedy"
    assert changed(before, with_llm(temperature=0.7)).num_rows == before.num_prompts
    assert changed(before, with_llm(certainty=True)).num_rows == before.num_prompts
    assert (
        changed(
            before, Plan.of(config(factor_set, error_budget=0.5), tiny_dataset, "model")
        ).num_rows
        == 0
    )


@pytest.mark.invariant
def test_keys_are_those_of_earlier_versions(tiny_dataset: Dataset, factor_set: str) -> None:
    keys = rows(Plan.of(config(factor_set), tiny_dataset, "model"))["key"].to_pylist()
    assert [keys[0], keys[-1]] == [
        "d1e93859bc3e79a43b69df141851ea7d",
        "b4eb7f462ef467e8ae3e86fa8e81b5a6",
    ]


@pytest.mark.bad_input
def test_an_unknown_factor_is_named(tiny_dataset: Dataset, factor_set: str) -> None:
    field = GeneratedField(name="facts", side="item", factor_set=factor_set, factors=("colour",))
    with pytest.raises(ConfigError, match=r"'facts'.*'colour'.*mood, theme"):
        Plan.of(config(factor_set, fields=(field,)), tiny_dataset, "model")
