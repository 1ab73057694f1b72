"""Features with several values and features that are numbers, from tables to arrays by row."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lorecast.config import DatasetConfig, EntityColumns, InteractionColumns, ListColumn
from lorecast.data.entities import Entities, entities_of
from lorecast.data.features import feature_codes, multi_codes, numbers
from lorecast.data.files import Chunk
from lorecast.data.layout import part_name, samples_folder
from lorecast.errors import InputError


def _items(table: dict[str, list], **columns: object) -> Entities:
    mapping = EntityColumns.model_validate({"file": "films.csv", "id": "id", **columns})
    return entities_of(Chunk(0, pa.table(table), ()), "films.csv", "item", mapping)


@pytest.mark.parametrize(
    ("column", "values"),
    [
        (
            "genres",
            [["War", "Drama", "War"], None, [], ["Comedy", None, ""], ["Drama", "War", "Comedy"]],
        ),
        (
            ListColumn(column="genres", separator="|"),
            ["War|Drama | War", None, "", " Comedy||", "Drama|War|Comedy"],
        ),
    ],
)
def test_several_values_a_row(column: str | ListColumn, values: list) -> None:
    ids = [1, 2, 3, 4, 5]
    items = _items({"id": ids, "genres": values}, multi=(column,))
    assert items.multi_vocabularies() == {"genres": ["Comedy", "Drama", "War"]}
    assert items.num_cut == {}
    codes = multi_codes(items.item_table(), ["genres"])["genres"]
    assert codes.tolist() == [
        [0, 0, 0],
        [3, 2, 0],
        [0, 0, 0],
        [0, 0, 0],
        [1, 0, 0],
        [2, 3, 1],
    ]
    few = _items({"id": ids, "genres": values}, multi=(column,), multi_max=2)
    assert few.num_cut == {"genres": 1}
    assert multi_codes(few.item_table(), ["genres"])["genres"][5].tolist() == [2, 3]


def test_rows_that_are_left_out_take_their_values_along() -> None:
    items = _items(
        {"id": [7, None, 7, 8], "tags": [["a"], ["b"], ["c"], ["d", "a"]], "year": [1, 2, 3, 4]},
        multi=("tags",),
        numeric=("year",),
    )
    assert items.multi["tags"].to_pylist() == [["a"], ["d", "a"]]
    assert items.numeric["year"].to_pylist() == [1, 4]


def test_prompts_may_show_lists() -> None:
    tags = [["War", "Drama", "War"], None, [], ["7"]]
    items = _items({"id": [1, 2, 3, 4], "tags": tags}, text=("tags",))
    assert items.texts["tags"].to_pylist() == ["War, Drama", None, None, "7"]


def _trained_on(folder: Path, item_rows: list[list[int]]) -> Path:
    (target := samples_folder(folder, "train")).mkdir(parents=True)
    for index, rows in enumerate(item_rows):
        table = pa.table({"item_row": pa.array(rows, pa.int32()), "user_row": rows})
        pq.write_table(table, target / part_name(index))
    return folder


@pytest.mark.parametrize("as_text", [False, True])
def test_numbers_are_scaled_by_what_is_trained_on(tmp_path: Path, as_text: bool) -> None:
    price: list = [2.0, 4.0, None, 900.0, 9.0]
    if as_text:
        price = [" " if value is None else f"{value} " for value in price]
    items = _items({"id": [1, 2, 3, 4, 5], "price": price}, numeric=("price",), features=("price",))
    _trained_on(tmp_path, [[1, 2, 1, 3], [5, 5, 5]])
    scaled, scales = items.standardised(tmp_path, "item")
    mean, std = np.mean([2, 4, 9]), np.std([2, 4, 9])
    assert scales["price"] == pytest.approx((mean, std))
    table = scaled.item_table()
    assert feature_codes(table, ["price"]).shape == (6, 1)
    found = numbers(table, ["price"])
    assert found.dtype == np.float32
    expected = [0, *(np.array([2, 4, mean, 900, 9]) - mean) / std]
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-6)


def test_columns_of_other_datasets_have_no_width() -> None:
    table = _items({"id": [1, 2]}).item_table()
    assert table.column_names == ["id", "title"]
    assert feature_codes(table, []).shape == (3, 0)
    assert multi_codes(table, []) == {}
    assert numbers(table, []).shape == (3, 0)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"multi": ("year",)}, "films.csv: column 'year' is int64, expected lists .or strings"),
        ({"multi": ("title",)}, r"column 'title' is string, .*separator: '\|'"),
        (
            {"multi": ({"column": "tags", "separator": "|"},)},
            "column 'tags' is list<.*>, expected strings to cut",
        ),
        ({"multi": ("none",)}, r"column 'none' \(named in dataset\.items\.multi\) has no value"),
        ({"numeric": ("title",)}, "column 'title' holds 'a', which is no finite number: mend it"),
        ({"numeric": ("far",)}, "column 'far' holds inf, which is no finite number"),
        ({"numeric": ("tags",)}, "column 'tags' is list<.*>, expected numbers"),
    ],
)
def test_columns_that_hold_no_such_features(columns: dict, message: str) -> None:
    table = {
        "id": [1, 2],
        "title": ["a", "b"],
        "year": [1990, 1991],
        "tags": [["x"], ["y"]],
        "none": [[], [None]],
        "far": [1.0, float("inf")],
    }
    with pytest.raises(InputError, match=message):
        _items(table, **columns)


@pytest.mark.bad_input
def test_a_list_column_is_a_name_or_a_mapping() -> None:
    with pytest.raises(ValueError, match=r"give a column's name, or {column: NAME"):
        InteractionColumns.model_validate({"file": "clicks", "history": 5})
    plain = EntityColumns.model_validate({"file": "films", "id": "id", "multi": ["tags"]})
    assert plain.multi == (ListColumn(column="tags"),)
    assert EntityColumns.model_validate(plain.model_dump()) == plain


@pytest.mark.bad_input
@pytest.mark.parametrize("rows", [[1, 2], [3]])
def test_a_number_that_is_always_the_same(tmp_path: Path, rows: list[int]) -> None:
    items = _items({"id": [1, 2, 3, 4], "price": [5.0, 5.0, None, 6.0]}, numeric=("price",))
    expected = r"column 'price' \(named in dataset\.items\.numeric\) has no two different numbers"
    with pytest.raises(InputError, match=expected):
        items.standardised(_trained_on(tmp_path, [rows]), "item")


def test_datasets_without_such_features_stay_what_they_are() -> None:
    """Their identity has the keys it had before there were any."""
    config = DatasetConfig(
        source="tables",
        interactions=InteractionColumns(file="clicks"),
        items=EntityColumns(file="films", id="id"),
    )
    identity = config.identity()
    assert list(identity["interactions"]) == [
        *("file", "user", "item", "label", "rating", "timestamp", "order")
    ]
    assert list(identity["items"]) == ["file", "id", "title", "text", "features"]
    assert list(identity["split"]) == ["by", "valid", "test", "column", "seed"]
    richer = EntityColumns(file="films", id="id", multi=("tags",))
    assert {"multi", "multi_max"} <= set(richer.identity())
