"""Columns of every type that tables bring."""

import datetime
from decimal import Decimal

import pyarrow as pa
import pytest

from lorecast.data import parsing


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([7, None]), ["7", None]),
        (pa.array([7.0, 7.5, 1e300, None]), ["7", None, None, None]),
        (pa.array(["7", "", "a b"]), ["7", None, "a b"]),
        (pa.array(["x", "y", "x"]).dictionary_encode(), ["x", "y", "x"]),
        (pa.array(["x"], pa.large_string()), ["x"]),
        (pa.array([Decimal("12")]), ["12"]),
        (pa.nulls(2), [None, None]),
    ],
)
def test_ids(column: pa.Array, expected: list[str | None]) -> None:
    assert parsing.ids(column).to_pylist() == expected
    assert parsing.ids(pa.chunked_array([column, column])).to_pylist() == expected * 2


def test_numbers() -> None:
    column = pa.array(["3", "2.5", " 1e1 ", "five", "nan", "", None, "4,5"])
    assert parsing.numbers(column).to_pylist() == [3, 2.5, 10, None, None, None, None, None]
    assert parsing.numbers(pa.array([1.5, float("inf")])).to_pylist() == [1.5, None]


def test_labels() -> None:
    column = pa.array(["1", "0", "True", "false", "1.0", "2", "yes"])
    assert parsing.labels(column).to_pylist() == [1, 0, 1, 0, 1, None, None]
    assert parsing.labels(pa.array([True, False, None])).to_pylist() == [1, 0, None]
    assert parsing.labels(pa.array([0, 1, -1])).to_pylist() == [0, 1, None]


def test_integers() -> None:
    assert parsing.integers(pa.array(["-4", "4.5", "x"])).to_pylist() == [-4, None, None]
    assert parsing.integers(pa.array([4.0, 4.5])).to_pylist() == [4, None]


MOMENT = 978300760  # 2000-12-31 22:12:40 UTC


@pytest.mark.parametrize(
    "column",
    [
        pa.array([MOMENT]),
        pa.array([MOMENT + 0.25]),
        pa.array([str(MOMENT)]),
        pa.array(["2000-12-31 22:12:40"]),
        pa.array(["2000-12-31T22:12:40Z"]),
        pa.array(["2000-12-31T23:42:40.123+01:30"]),
        pa.array(["2000-12-31T21:12:40-0100"]),
        pa.array([datetime.datetime(2000, 12, 31, 22, 12, 40, 999)]),
        pa.array([MOMENT * 10**9], pa.timestamp("ns", "Asia/Tokyo")),
    ],
)
def test_seconds_of_one_moment(column: pa.Array) -> None:
    assert parsing.seconds(column).to_pylist() == [MOMENT]


def test_seconds_of_days_and_of_what_is_no_time() -> None:
    midnight = MOMENT - MOMENT % 86_400
    assert parsing.seconds(pa.array([datetime.date(2000, 12, 31)])).to_pylist() == [midnight]
    odd = pa.array(["2000-12-31", "2000-13-31", "soon", "", "31/12/2000", str(MOMENT * 1000)])
    assert parsing.seconds(odd).to_pylist() == [midnight, None, None, None, None, None]
    milliseconds = pa.array([MOMENT * 1000, -(2**63), 2**62])
    assert parsing.seconds(milliseconds).to_pylist() == [None, None, None]


@pytest.mark.parametrize(
    "parse", [parsing.ids, parsing.texts, parsing.numbers, parsing.labels, parsing.seconds]
)
def test_a_type_that_can_never_fit(parse: object) -> None:
    with pytest.raises(TypeError):
        parse(pa.array([[1]]))  # type: ignore[operator]
