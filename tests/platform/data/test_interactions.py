"""Row checks: every kind of bad row, counted by reason; the rest as integers."""

import pyarrow as pa
import pytest

from lorecast.config import DatasetConfig, InteractionColumns, ListColumn, SplitConfig
from lorecast.data.files import Chunk
from lorecast.data.interactions import InteractionRules, check
from lorecast.data.rejected import merge, summarise
from lorecast.errors import ConfigError, InputError

USERS = pa.array(["ann", "bob"])
ITEMS = pa.array(["10", "11", "12"])
COLUMNS = InteractionColumns(file="clicks", user="who", item="what", rating="stars")


def _rules(columns: InteractionColumns = COLUMNS, **dataset: object) -> InteractionRules:
    config = DatasetConfig(source="tables", interactions=columns, history_length=3, **dataset)
    return InteractionRules(columns=columns, config=config)


FOLD = SplitConfig(by="column", column="fold")


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
        _rules(columns, split=FOLD),
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


def test_a_column_may_call_the_parts_otherwise() -> None:
    split = SplitConfig(
        by="column", column="fold", values={"train": -1, "valid": "later", "test": 1}
    )
    accepted, rejected = _check(
        _rules(split=split),
        who=["ann"] * 4,
        what=["10"] * 4,
        stars=[4] * 4,
        timestamp=[5] * 4,
        fold=["1", "-1", "later", "train"],
    )
    assert accepted["part"] == [2, 0, 1]
    assert [row["reason"] for row in rejected] == ["fold is not -1, later, 1 or empty"]


@pytest.mark.parametrize(
    ("history", "lists", "num_ids", "num_unknown"),
    [
        (
            ListColumn(column="seen"),
            [["10", "99", "11"], None, [], ["12", "11", "10", "12", "99", None, "11"], ["99"]],
            11,
            4,
        ),
        (
            ListColumn(column="seen", separator="|"),
            ["10|99| 11", None, "", "12|11|10|12|99||11", "99"],
            10,
            3,
        ),
    ],
)
def test_a_column_gives_the_history(
    history: ListColumn, lists: list, num_ids: int, num_unknown: int
) -> None:
    columns = COLUMNS.model_copy(update={"history": history})
    table = {"who": ["ann"] * 5, "what": ["10"] * 5, "stars": [4] * 5, "timestamp": [5] * 5}
    chunk = Chunk(0, pa.table({**table, "seen": lists}), ())
    checked = check(chunk, "clicks.csv", _rules(columns), USERS, ITEMS)
    assert checked.accepted["history"].to_pylist() == [
        [0, 1, 2],
        [0, 0, 0],
        [0, 0, 0],
        [1, 3, 2],
        [0, 0, 0],
    ]
    assert checked.history["ids"] == num_ids
    assert checked.history["unknown"] == num_unknown
    assert (checked.history["liked"], checked.history["repeated"]) == (5, 0)


def test_rejected_rows_show_their_history() -> None:
    columns = COLUMNS.model_copy(update={"history": ListColumn(column="seen")})
    accepted, rejected = _check(
        _rules(columns), who=["eve"], what=["10"], stars=[4], timestamp=[5], seen=[[10, 12]]
    )
    assert accepted["history"] == []
    assert rejected[0]["content"] == "who=eve, what=10, stars=4, timestamp=5, seen=10 12"


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("separator", "values", "said"),
    [
        (None, ["10 11"], r"'seen' is string, expected lists \(or strings, with a separator"),
        ("|", [[10]], r"'seen' is list<.*>, expected strings to cut at the separator"),
        (None, [[[10]]], r"'seen' is list<.*>, expected strings or integers"),
    ],
)
def test_a_history_of_a_wrong_type(separator: str | None, values: list, said: str) -> None:
    history = ListColumn(column="seen", separator=separator)
    columns = COLUMNS.model_copy(update={"history": history})
    with pytest.raises(InputError, match=said):
        _check(_rules(columns), who=["ann"], what=["10"], stars=[4], timestamp=[5], seen=values)


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
