"""KAR's knowledge files: read whole, known by their look, refused in one sentence."""

import json
from pathlib import Path

import pytest

from lorecast.errors import InputError
from lorecast.knowledge.kar import looks_like_kar, read_kar


def write(folder: Path, content: object, name: str = "item.klg") -> Path:
    path = folder / name
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text, encoding="utf-8")
    return path


def test_reads_one_object(tmp_path: Path) -> None:
    path = write(
        tmp_path, {"7": {"prompt": "Heat?", "ans": "Tense."}, "3": {"prompt": "", "ans": None}}
    )
    table = read_kar(path)
    assert table.to_pydict() == {
        "id": ["7", "3"],
        "text": ["Tense.", None],
        "prompt": ["Heat?", ""],
    }
    assert table["text"].null_count == 1


@pytest.mark.parametrize("separator", ["\n", "\r\n\n", " "])
def test_reads_several_objects_without_prompts(tmp_path: Path, separator: str) -> None:
    lines = [json.dumps({str(number): {"answer": f"Né {number}."}}) for number in range(3)]
    table = read_kar(write(tmp_path, "\ufeff" + separator.join(lines) + separator, "texts.jsonl"))
    assert table.column_names == ["id", "text"]
    assert table["text"].to_pylist() == ["Né 0.", "Né 1.", "Né 2."]


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "holds no entry"),
        ("{}", "holds no entry"),
        ("film,text\n1,Tense.\n", "not JSON"),
        ('{"1": {"ans": "cut', r"not JSON .*line 1"),
        ('{"1": {"ans": "a"}}\n{"2": ', r"not JSON .*line 2"),
        ([{"ans": "a"}], "holds a list"),
        ({"1": "Tense."}, "id '1' has no answer"),
        ({"1": {"prompt": "Heat?"}}, "id '1' has no answer"),
        ({"1": {"ans": "a"}, "2": {"ans": 5}, "3": {"ans": {}}}, "text of 2 of 3 .* id '2'"),
        ('{"1": {"ans": "a"}, "1": {"ans": "b"}}', "1 ids stand there more than once, .*'1'"),
        ('{"1": {"ans": "a"}}\n{"1": {"ans": "b"}}', "more than once"),
        ({"1": {"ans": "\ud83d"}}, "half of a surrogate pair"),
    ],
)
def test_unusable_files(tmp_path: Path, content: object, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence) as caught:
        read_kar(write(tmp_path, content))
    assert "item.klg" in str(caught.value)


@pytest.mark.bad_input
def test_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "item.klg"
    path.write_bytes('{"1": {"ans": "é"}}'.encode("latin-1"))
    with pytest.raises(InputError, match="not UTF-8"):
        read_kar(path)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("item.klg", "anything", True),
        ("item.json", {"1": {"prompt": "Heat?", "ans": "Tense."}}, True),
        ("item.jsonl", '{ "a\\"b" :\n {"answer": "Tense.', True),
        ("item.jsonl", {"id": "1", "text": "Tense."}, False),
        ("item.jsonl", {"id": {"value": "1"}}, False),
        ("item.parquet", "PAR1", False),
    ],
)
def test_looks(tmp_path: Path, name: str, content: object, expected: bool) -> None:
    assert looks_like_kar(write(tmp_path, content, name)) is expected


def test_what_is_no_file_looks_like_nothing(tmp_path: Path) -> None:
    assert not looks_like_kar(tmp_path)
    assert not looks_like_kar(tmp_path / "item.klg")
