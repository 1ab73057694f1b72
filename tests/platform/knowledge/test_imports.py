"""Imported texts: cut to chunks, joined by id, counted; unusable files in one sentence."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lorecast.config import ImportedField
from lorecast.errors import InputError
from lorecast.knowledge.imports import ImportedTexts, import_texts
from lorecast.knowledge.sentences import group_evenly, split_sentences

ITEMS = pa.table({"id": ["i1", "i2", "i3", "i4"]})


def field(file: str = "texts.jsonl", **more: object) -> ImportedField:
    return ImportedField(**{"kind": "import", "name": "plot", "side": "item", "file": file, **more})


def write(folder: Path, *rows: dict[str, object], name: str = "texts.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def texts_of(imported: ImportedTexts) -> dict[tuple[int, int], str]:
    rows = imported.rows.to_pylist()
    return {(row["row"], row["chunk"]): row["text"] for row in rows if row["status"] == "ok"}


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ('He said "No." Then (softly) he left.', ['He said "No."', "Then (softly) he left."]),
        (
            "Dr. Strange met Samuel L. Jackson. It rained.",
            ["Dr. Strange met Samuel L. Jackson.", "It rained."],
        ),
        ("Made for 3.5 million in the U.S. alone.", ["Made for 3.5 million in the U.S. alone."]),
        ("First line\nsecond line\n\n", ["First line", "second line"]),
        ("Élan vital. Über alles.", ["Élan vital.", "Über alles."]),
        ("好看。很好！", ["好看。", "很好！"]),
        ("no end", ["no end"]),
        ("  \n ", []),
        (None, []),
    ],
)
def test_sentences(text: str | None, sentences: list[str]) -> None:
    assert split_sentences(pa.array([text])).to_pylist() == [sentences]


def test_groups_are_even_and_lose_nothing() -> None:
    sentences = pa.array([[str(n) for n in range(count)] for count in (0, 1, 5, 8, 21)])
    groups = group_evenly(sentences, 8).to_pylist()
    assert [len(group) for group in groups] == [0, 1, 5, 8, 8]
    assert [" ".join(group).split() for group in groups] == sentences.to_pylist()
    sizes = [len(group.split()) for group in groups[-1]]
    assert max(sizes) - min(sizes) <= 1


def test_rows_statuses_and_counts(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"id": "i3", "text": "One. Two. Three."},
        {"id": "i1", "text": ""},
        {"id": "who", "text": "Lost."},
        {"id": "i2", "text": None},
        {"id": "i4", "text": "2020-01-01"},
    )
    imported = import_texts(field(max_chunks=2), tmp_path, ITEMS)
    assert texts_of(imported) == {(3, 0): "One.", (3, 1): "Two. Three.", (4, 0): "2020-01-01"}
    assert (imported.num_texts, imported.num_empty, imported.num_unknown) == (4, 2, 1)
    assert imported.num_chunks == 2
    rows = {(row["row"], row["chunk"]): row for row in imported.rows.to_pylist()}
    assert rows[1, 0]["status"] == rows[2, 0]["status"] == "empty"
    assert rows[3, 1]["factor"] == "2"
    assert rows[3, 0]["history_end"] is None


def test_integer_ids_and_a_filter_in_parquet(tmp_path: Path) -> None:
    table = {"movie": [1, 2, 1], "llm": ["a", "a", "b"], "words": ["A one.", "A two.", "B one."]}
    pq.write_table(pa.table(table), tmp_path / "texts.parquet")
    chosen = field("texts.parquet", id="movie", text="words", where={"llm": "a"})
    imported = import_texts(chosen, tmp_path, pa.table({"id": ["2", "1"]}))
    assert texts_of(imported) == {(1, 0): "A two.", (2, 0): "A one."}


def test_user_texts_say_what_their_writer_saw(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"id": "i1", "text": "Likes it.", "seen": 4},
        {"id": "i2", "text": "Hates it.", "seen": None},
    )
    known = field(side="user", history_end="seen")
    assert import_texts(known, tmp_path, ITEMS).rows["history_end"].to_pylist() == [4, None]
    unknown = field(side="user")
    assert import_texts(unknown, tmp_path, ITEMS).rows["history_end"].to_pylist() == [None, None]


@pytest.mark.bad_input
def test_text_that_is_not_utf8_names_file_line_and_byte(tmp_path: Path) -> None:
    lines = b'{"id": "i1", "text": "ok"}\n{"id": "i2", "text": "caf\xe9"}\n'
    (tmp_path / "texts.jsonl").write_bytes(lines)
    with pytest.raises(InputError, match=r"texts\.jsonl: not UTF-8 in line 2 \(byte 52\)"):
        import_texts(field(), tmp_path, ITEMS)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"file": "absent.jsonl"}, "absent.jsonl: no such file"),
        ({"text": "words"}, "no column 'words'.*it has id, text, llm"),
        ({"id": "movie"}, "no column 'movie'"),
        ({"where": {"llm": "z"}}, "no row has llm = 'z'.*holds 'a', 'b'"),
        ({}, "1 ids have more than one text, the first 'i1'"),
        ({"id": "llm"}, "no id of column 'llm' is a known item"),
    ],
)
def test_unusable_files_in_one_sentence(
    tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    write(
        tmp_path,
        {"id": "i1", "text": "A.", "llm": "a"},
        {"id": "i1", "text": "B.", "llm": "b"},
    )
    with pytest.raises(InputError, match=said) as error:
        import_texts(field(**changes), tmp_path, ITEMS)
    assert "\n" not in str(error.value)


def test_a_file_may_call_entities_by_another_column(tmp_path: Path) -> None:
    items = pa.table({"id": ["1", "2", "3"], "imdb": ["tt9", None, "tt7"]})
    write(tmp_path, {"id": "tt7", "text": "A."}, {"id": "tt8", "text": "B."})
    imported = import_texts(field(key="imdb"), tmp_path, items)
    assert texts_of(imported) == {(3, 0): "A."}
    assert imported.rows["id"].to_pylist() == ["3"]
    assert imported.num_unknown == 1


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("imbd", r"'plot': the items have no column 'imbd' .* list it in dataset\.items\.text"),
        ("year", "several items have year = '1990'; a key must name one"),
    ],
)
def test_a_key_that_names_no_one_entity(tmp_path: Path, key: str, said: str) -> None:
    write(tmp_path, {"id": "1990", "text": "A."})
    items = pa.table({"id": ["1", "2"], "year": ["1990", "1990"]})
    with pytest.raises(InputError, match=said):
        import_texts(field(key=key), tmp_path, items)


def test_the_usual_key_is_no_part_of_the_identity() -> None:
    assert "key" not in field().identity()
    assert field(key="imdb").identity()["key"] == "imdb"


@pytest.mark.bad_input
def test_what_is_no_json_is_said(tmp_path: Path) -> None:
    (tmp_path / "texts.jsonl").write_text('{"id": "i1", "text": "A."}\n{"id": \n')
    with pytest.raises(InputError, match="not JSON lines"):
        import_texts(field(), tmp_path, ITEMS)


@pytest.mark.data
def test_every_movielens_text_is_accounted_for(data_folder: Path) -> None:
    folder = data_folder / "ml-1m"
    movies = pq.read_table(folder / "movies.parquet")["movie_id"].cast(pa.string())
    items = pa.table({"id": movies})
    imported = [
        import_texts(
            field("knowledge/item.parquet", id="movie_id", where={"source": source}),
            folder,
            items,
        )
        for source in ("colakg", "gear-rec", "agent4rec")
    ]
    assert sum(texts.num_texts for texts in imported) == 11_026
    assert [texts.num_empty for texts in imported] == [1, 0, 0]
    assert [texts.num_unknown for texts in imported] == [0, 0, 0]
