"""Row checks: every kind of bad row, counted by reason; the rest as integers."""

import pyarrow as pa
import pytest

from lorecast.config import InteractionColumns
from lorecast.data.files import Chunk
from lorecast.data.interactions import InteractionRules, check
from lorecast.data.rejected import merge, summarise
from lorecast.errors import ConfigError, InputError

USERS = pa.array(["ann", "bob"])
ITEMS = pa.array(["10", "11", "12"])
COLUMNS = InteractionColumns(file="clicks", user="who", item="what", rating="stars")


def _rules(columns: InteractionColumns = COLUMNS, split: str | None = None) -> InteractionRules:
    return InteractionRules(columns=columns, split_column=split, positive_rating=4)


def _check(rules: InteractionRules, malformed: tuple[str, ...] = (), **columns: list) -> tuple:
    chunk = Chunk(100, pa.table(columns), malformed)
    checked = check(chunk, "clicks.csv", rules, USERS, ITEMS)
    return checked.accepted.to_pydict(), checked.rejected.to_pylist()


def test_good_rows_become_integers() -> None:
    accepted, rejected = _check(
        _rules(), who=["bob", "ann"], what=[12, 10], stars=[4.0, 3.5], timestamp=["5", "1970-01-02"]
    )
    assert rejected == []
    assert accepted == {
        "user_row": [2, 1],
        "item_row": [3, 1],
        "rating": [4.0, 3.5],
        "label": [1, 0],
        "timestamp": [5, 86_400],
        "part": [0, 0],
    }


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"who": None}, "who is empty"),
        ({"who": "eve"}, "who is not in the users table"),
        ({"what": ""}, "what is empty"),
        ({"what": "99"}, "what is not in the items table"),
        ({"stars": "five"}, "stars is not a number"),
        ({"stars": None}, "stars is not a number"),
        ({"timestamp": "soon"}, "timestamp is not a time in seconds or ISO 8601"),
        ({"timestamp": "1600000000000"}, "timestamp is not a time in seconds or ISO 8601"),
    ],
)
def test_bad_rows_are_set_aside_with_the_reason(row: dict, reason: str) -> None:
    good = {"who": "ann", "what": "10", "stars": "4", "timestamp": "5"}
    table = {name: [value, row.get(name, value), value] for name, value in good.items()}
    accepted, rejected = _check(_rules(), **table)
    assert len(accepted["user_row"]) == 2
    content = ", ".join(f"{name}={(good | row)[name] or ''}" for name in good)
    assert rejected == [{"file": "clicks.csv", "row": 101, "reason": reason, "content": content}]


def test_labels_orders_and_parts() -> None:
    columns = InteractionColumns(
        file="clicks", user="who", item="what", label="clicked", order="step"
    )
    accepted, rejected = _check(
        _rules(columns, split="fold"),
        who=["ann"] * 5,
        what=["10"] * 5,
        clicked=[1, 0, 2, 1, 1],
        timestamp=[5] * 5,
        step=[1, 2, 3, None, 5],
        fold=["test", None, "train", "train", "holdout"],
    )
    assert accepted["label"] == accepted["rating"] == [1, 0]
    assert accepted["order"] == [1, 2]
    assert accepted["part"] == [2, -1]
    assert [row["reason"] for row in rejected] == [
        "clicked is not 0 or 1",
        "step is not a whole number",
        "fold is not train, valid, test or empty",
    ]


def test_malformed_lines_are_rejected_rows() -> None:
    _, rejected = _check(_rules(), ("a,b", "c"), who=[], what=[], stars=[], timestamp=[])
    assert [row["content"] for row in rejected] == ["a,b", "c"]
    assert {row["reason"] for row in rejected} == {"malformed line"}


@pytest.mark.bad_input
def test_a_column_of_a_wrong_type_is_named() -> None:
    expected = r"clicks.csv: column 'stars' is list<.*>, expected numbers"
    with pytest.raises(InputError, match=expected):
        _check(_rules(), who=["ann"], what=["10"], stars=[[4]], timestamp=[5])


@pytest.mark.bad_input
def test_neither_label_nor_rating() -> None:
    with pytest.raises(ConfigError, match="name a label column or a rating column"):
        _rules(InteractionColumns(file="clicks"))


def test_summaries_count_by_reason_and_keep_three_examples() -> None:
    _, rejected = _check(
        _rules(),
        who=[None] * 4 + ["eve"],
        what=["10"] * 5,
        stars=[4] * 5,
        timestamp=[5] * 5,
    )
    one = summarise(pa.Table.from_pylist(rejected))
    assert {reason: found["rows"] for reason, found in one.items()} == {
        "who is empty": 4,
        "who is not in the users table": 1,
    }
    both = merge([one, one])
    assert both["who is empty"]["rows"] == 8
    assert len(both["who is empty"]["examples"]) == 3
