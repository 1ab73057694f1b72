"""CoLLM's pickles: tables come out, programs do not run."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from lorecast.errors import InputError
from lorecast.sella.collm_pickles import convert, read_table


def _table(split: int) -> pd.DataFrame:
    table = pd.DataFrame(
        {
            "uid": [1, 1, 2],
            "iid": [3, 4, 3],
            "label": [1, 0, 1],
            "timestamp": [10, 11, 12],
            "his": [[0], [0, 3], [0]],
            "his_title": [[""], ["", "Sting, The (1973)"], [""]],
            "title": ["Sting, The (1973)", "Heat (1995)", "Sting, The (1973)"],
            "flag": [float(split)] * 3,
        }
    ).astype({"title": object})
    table.columns = table.columns.astype(object)  # as older pandas had them
    return table


def _write(folder: Path, make: Callable[[int], Any] = _table) -> Path:
    folder.mkdir(exist_ok=True)
    for flag, split in ((-1, "train"), (0, "valid"), (1, "test")):
        (folder / f"{split}_ood2.pkl").write_bytes(pickle.dumps(make(flag), protocol=4))
    return folder


def test_tables_come_out_without_padding(tmp_path: Path) -> None:
    rows = convert(_write(tmp_path / "in"), tmp_path / "out")
    assert rows == {"train": 3, "valid": 3, "test": 3}
    valid = pq.read_table(tmp_path / "out" / "valid.parquet")
    assert valid["his"].to_pylist() == [[], [3], []]
    assert valid["flag"].to_pylist() == [0, 0, 0]
    items = pq.read_table(tmp_path / "out" / "items.parquet").to_pylist()
    assert items == [
        {"iid": 3, "title": "Sting, The (1973)"},
        {"iid": 4, "title": "Heat (1995)"},
    ]


class _Program:
    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._mark,)


@pytest.mark.bad_input
def test_a_program_in_a_pickle_is_named_and_does_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(_Program(mark)))
    with pytest.raises(InputError, match=r"evil\.pkl: the pickle asks for .* and is not read"):
        read_table(tmp_path / "evil.pkl")
    assert not mark.exists()


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"no pickle", "not a readable pickle"),
        (pickle.dumps([1, 2]), "holds a list"),
        (pickle.dumps(_table(0).drop(columns="his")), "has no column his"),
    ],
)
def test_what_is_no_such_table_is_refused(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "x.pkl").write_bytes(content)
    with pytest.raises(InputError, match=f"x.pkl: {sentence}"):
        read_table(tmp_path / "x.pkl")


@pytest.mark.bad_input
def test_a_missing_part_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"train_ood2\.pkl: no such file"):
        convert(tmp_path, tmp_path / "out")
