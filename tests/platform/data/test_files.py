"""Reading Parquet and CSV in chunks, and files that cannot be read."""

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lorecast.data.files import TableFiles
from lorecast.errors import InputError


def test_parquet_fragments_cover_the_table_once(tmp_path: Path) -> None:
    for name, start in (("a", 0), ("b", 1000)):
        table = pa.table({"n": range(start, start + 1000), "x": [0] * 1000})
        pq.write_table(table, tmp_path / f"{name}.parquet", row_group_size=100)
    files = TableFiles.find(tmp_path.parent, tmp_path.name)
    assert files.num_rows() == 2000
    fragments = files.fragments(250)
    assert len(fragments) == 8
    chunks = [chunk for fragment in fragments for chunk in files.scan(fragment, ["n"], 70)]
    assert max(chunk.table.num_rows for chunk in chunks) <= 70
    rows = [value for chunk in chunks for value in chunk.table["n"].to_pylist()]
    assert rows == list(range(2000))
    assert all(chunk.table["n"][0].as_py() % 1000 == chunk.first_row for chunk in chunks)


def test_csv_comes_as_strings_and_odd_lines_are_set_aside(tmp_path: Path) -> None:
    text = '\ufeffid,note,n\n1,"two\nlines",3\n007,,x\n8,too few\n9,"a, b",4\n'
    (tmp_path / "a.csv").write_text(text, encoding="utf-8")
    chunk = TableFiles.find(tmp_path, "a.csv").read(["id", "note"])
    assert chunk.table.to_pydict() == {
        "id": ["1", "007", "9"],
        "note": ["two\nlines", None, "a, b"],
    }
    assert chunk.malformed == ("8,too few",)


def test_csv_is_read_in_chunks(tmp_path: Path) -> None:
    lines = "\n".join(f"{n},{'x' * 100}" for n in range(100_000))
    with gzip.open(tmp_path / "a.csv.gz", "wt") as stream:
        stream.write(f"n,x\n{lines}\n")
    files = TableFiles.find(tmp_path, "a.csv.gz")
    chunks = [chunk for part in files.fragments(10) for chunk in files.scan(part, ["n"], 30_000)]
    assert len(chunks) > 1
    rows = [int(value) for chunk in chunks for value in chunk.table["n"].to_pylist()]
    assert rows == list(range(100_000))
    firsts = [int(chunk.table["n"][0].as_py()) for chunk in chunks]
    assert [chunk.first_row for chunk in chunks] == firsts


def test_several_files_are_one_table(tmp_path: Path) -> None:
    for name, numbers in (("b", [1, 2]), ("a", [3]), ("c", [4])):
        pq.write_table(pa.table({"n": numbers}), tmp_path / f"{name}.parquet")
    files = TableFiles.find(tmp_path, ("b.parquet", "a.parquet"))
    assert files.read(["n"]).table["n"].to_pylist() == [1, 2, 3]


@pytest.mark.bad_input
def test_files_that_make_no_one_table(tmp_path: Path) -> None:
    pq.write_table(pa.table({"n": [1]}), tmp_path / "a.parquet")
    (tmp_path / "b.csv").write_text("n\n1\n")
    with pytest.raises(InputError, match=r"a\.parquet: the file is listed twice"):
        TableFiles.find(tmp_path, ("a.parquet", "a.parquet"))
    with pytest.raises(InputError, match=r"a\.parquet, b\.csv are one table in several formats"):
        TableFiles.find(tmp_path, ("a.parquet", "b.csv"))
    with pytest.raises(InputError, match=r"c\.parquet: no such file"):
        TableFiles.find(tmp_path, ("a.parquet", "c.parquet"))


@pytest.mark.bad_input
def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "clicks.parquet").touch()
    with pytest.raises(InputError, match=r"no such file; did you mean 'clicks.parquet'"):
        TableFiles.find(tmp_path, "click.parquet")
    with pytest.raises(InputError, match="the last folder on that path that exists"):
        TableFiles.find(tmp_path, "deep/er/clicks.parquet")


@pytest.mark.bad_input
def test_a_missing_column_names_the_nearest(tmp_path: Path) -> None:
    pq.write_table(pa.table({"user_id": [1], "item_id": [2]}), tmp_path / "a.parquet")
    files = TableFiles.find(tmp_path, "a.parquet")
    expected = r"no column 'userid' \(named in dataset.users\); did you mean 'user_id'\?; it has"
    with pytest.raises(InputError, match=expected):
        files.require(["item_id", "userid"], "dataset.users")


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "the file is empty"),
        ("a.csv", b"id,name\n1,x\n2,caf\xe9\n", "not UTF-8 in line 3"),
        ("a.csv", b"id,n\xe9\n1,2\n", "not UTF-8 in line 1"),
        ("a.parquet", b"id,name\n1,x\n2,cafe\n", "not a readable Parquet file"),
        ("a.xlsx", b"", "give a .parquet or"),
        ("a.csv.gz", b"id,name\n1,x\n", "not a readable CSV file"),
    ],
)
def test_unreadable_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        files = TableFiles.find(tmp_path, name)
        files.read(list(files.column_types()))


@pytest.mark.bad_input
def test_mixed_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").touch()
    (tmp_path / "b.parquet").touch()
    with pytest.raises(InputError, match=r"mixes \.csv and \.parquet"):
        TableFiles.find(tmp_path.parent, tmp_path.name)
