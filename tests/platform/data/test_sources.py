"""Sources: the same contract for the world, for all MovieLens layouts and for own tables."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lorecast.config import DatasetConfig, EntityColumns, InteractionColumns
from lorecast.data.entities import Entities, known_only_by_id
from lorecast.data.movielens import MovieLensSource, said_titles
from lorecast.data.sources import Source
from lorecast.data.tables import TablesSource
from lorecast.errors import ConfigError, InputError
from lorecast.world.source import WorldSource

FILMS = {
    "1": ("Long Tide, The (1990)", "Drama|War"),
    "2": ("Été d'or (1991)", "Comedy"),
    "3": ("Bell (1992)", ""),
}
SAID = ["The Long Tide (1990)", "Été d'or (1991)", "Bell (1992)"]
RATINGS = [("7", "1", "5", "100"), ("7", "3", "3", "101"), ("8", "2", "4", "102")]


def _write_dat(folder: Path) -> None:
    (folder / "ratings.dat").write_text("".join("::".join(row) + "\n" for row in RATINGS))
    films = "".join(f"{id_}::{title}::{genres}\n" for id_, (title, genres) in FILMS.items())
    (folder / "movies.dat").write_bytes(films.encode("latin-1"))
    (folder / "users.dat").write_text("7::F::1::12::0\n8::M::56::20::0\n")


def _write_100k(folder: Path) -> None:
    (folder / "u.data").write_text("".join("\t".join(row) + "\n" for row in RATINGS))
    flags = {"1": (8, 17), "2": (5,), "3": (0,)}
    films = "".join(
        f"{id_}|{title}|01-Jan-1990||http://x|"
        + "|".join("1" if flag in flags[id_] else "0" for flag in range(19))
        + "\n"
        for id_, (title, _) in FILMS.items()
    )
    (folder / "u.item").write_bytes(films.encode("latin-1"))
    (folder / "u.user").write_text("7|17|F|programmer|0\n8|60|M|writer|0\n")


def _write_csv(folder: Path) -> None:
    ratings = "".join(",".join(row) + "\n" for row in RATINGS)
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + ratings)
    films = "".join(
        f'{id_},"{title}",{genres or "(no genres listed)"}\n'
        for id_, (title, genres) in FILMS.items()
    )
    (folder / "movies.csv").write_text("movieId,title,genres\n" + films, encoding="utf-8")


def _write_parquet(folder: Path) -> None:
    users, items, ratings, times = zip(*(map(int, row) for row in RATINGS), strict=True)
    pq.write_table(
        pa.table({"user_id": users, "movie_id": items, "rating": ratings, "ts": times}),
        folder / "ratings.parquet",
    )
    titles, genres = zip(*FILMS.values(), strict=True)
    pq.write_table(
        pa.table({"movie_id": [int(id_) for id_ in FILMS], "title": titles, "genres": genres}),
        folder / "movies.parquet",
    )
    pq.write_table(
        pa.table({"user_id": [7, 8], "gender": ["F", "M"], "age": [1, 56], "occupation": [12, 20]}),
        folder / "users.parquet",
    )


def _movielens(folder: Path) -> MovieLensSource:
    return MovieLensSource(DatasetConfig(source="movielens", path=str(folder)))


def _tables(folder: Path) -> TablesSource:
    _write_parquet(folder)
    return TablesSource(
        DatasetConfig(
            source="tables",
            path=str(folder),
            interactions=InteractionColumns(
                file="ratings.parquet", item="movie_id", rating="rating", timestamp="ts"
            ),
            items=EntityColumns(file="movies.parquet", id="movie_id", title="title"),
        )
    )


LAYOUTS = {"dat": _write_dat, "100k": _write_100k, "csv": _write_csv, "parquet": _write_parquet}


@pytest.mark.parametrize("kind", [*LAYOUTS, "tables", "world"])
def test_contract_of_sources(kind: str, tmp_path: Path) -> None:
    def open_source() -> Source:
        if kind == "world":
            return WorldSource(0)
        if kind == "tables":
            return _tables(tmp_path)
        LAYOUTS[kind](tmp_path)
        return _movielens(tmp_path)

    source = open_source()
    assert source.fingerprint() == open_source().fingerprint()
    columns = source.columns
    files = source.interactions(tmp_path)
    names = [columns.user, columns.item, columns.rating or "", columns.timestamp]
    files.require(names, "the source")
    table = files.read(names).table
    assert abs(files.num_rows() - table.num_rows) <= 1  # a CSV file's header may count
    assert table.num_rows > 0
    for column, entities in ((columns.user, source.users()), (columns.item, source.items())):
        if entities is not None:
            assert entities.rejected is not None
            assert entities.rejected.num_rows == 0
            mentioned = set(table[column].cast(pa.string()).to_pylist())
            assert mentioned <= set(entities.ids.to_pylist())


@pytest.mark.parametrize("write", LAYOUTS.values(), ids=LAYOUTS)
def test_movielens_layouts_say_the_same(write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path)
    source = _movielens(tmp_path)
    items = source.items().item_table()
    assert items["title"].to_pylist() == SAID
    assert items["genres"].to_pylist() == ["Drama, War", "Comedy", None]
    assert items["feature:genre"].to_pylist() == [2, 1, 0]
    users = source.users()
    if write is _write_csv:
        assert users is None
        return
    assert users is not None
    texts = {name: values.to_pylist() for name, values in users.texts.items()}
    assert texts == {
        "gender": ["female", "male"],
        "age": ["under 18", "56 or older"],
        "occupation": ["a programmer", "a writer"],
    }


def test_articles_move_to_the_front() -> None:
    titles = ["Fox, The (1990)", "Elk, An (1990)", "Owl (1990)", "Ox (Boeuf, Le) (1990)"]
    said = ["The Fox (1990)", "An Elk (1990)", "Owl (1990)", "Ox (Boeuf, Le) (1990)"]
    assert said_titles(pa.array(titles)).to_pylist() == said


def test_the_fingerprint_follows_the_content(tmp_path: Path) -> None:
    before = _tables(tmp_path).fingerprint()
    source = _tables(tmp_path)
    (tmp_path / "unrelated.csv").write_text("x\n")
    assert source.fingerprint() == before
    pq.write_table(pa.table({"movie_id": [1], "title": ["Other"]}), tmp_path / "movies.parquet")
    assert source.fingerprint() != before
    assert WorldSource(0).fingerprint() != WorldSource(1).fingerprint()


@pytest.mark.bad_input
def test_folders_that_hold_no_movielens(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"dataset\.path: name the folder"):
        MovieLensSource(DatasetConfig(source="movielens"))
    with pytest.raises(InputError, match="there is no such folder"):
        _movielens(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no MovieLens ratings; expected one of"):
        _movielens(tmp_path)
    (tmp_path / "ratings.dat").touch()
    with pytest.raises(InputError, match=r"movies\.dat: no such file; it belongs to ratings\.dat"):
        _movielens(tmp_path)


def _items(folder: Path, columns: EntityColumns, **table: list) -> Entities:
    _write_parquet(folder)
    pq.write_table(pa.table(table), folder / "movies.parquet")
    config = DatasetConfig(
        source="tables",
        path=str(folder),
        interactions=InteractionColumns(
            file="ratings.parquet", item="movie_id", rating="rating", timestamp="ts"
        ),
        items=columns,
    )
    items = TablesSource(config).items()
    assert items is not None
    return items


@pytest.mark.bad_input
def test_repeated_and_missing_ids_are_left_out(tmp_path: Path) -> None:
    columns = EntityColumns(file="movies.parquet", id="movie_id", title="title", features=("kind",))
    items = _items(
        tmp_path,
        columns,
        movie_id=[3, 1, None, 3, 2],
        title=["c", None, "x", "y", "b"],
        kind=["k2", "k1", "k9", "k9", None],
    )
    table = items.item_table()
    assert table["id"].to_pylist() == ["3", "1", "2"]
    assert table["title"].to_pylist() == ["c", "1", "b"]  # an item without one is called by its id
    assert items.vocabularies() == {"kind": ["k1", "k2"]}
    assert table["feature:kind"].to_pylist() == [2, 1, 0]
    assert items.rejected is not None
    assert items.rejected["reason"].to_pylist() == ["movie_id is empty", "movie_id is repeated"]


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"id": "movieid"}, "no column 'movieid' .* did you mean 'movie_id'"),
        (
            {"features": ("tags",)},
            "column 'tags' is list<.*>, expected one value a row .list the column in",
        ),
        ({"text": ("title",)}, "the text column 'title' .* rename it"),
    ],
)
def test_entity_tables_that_do_not_fit(tmp_path: Path, columns: dict, message: str) -> None:
    mapping = EntityColumns(**{"file": "movies.parquet", "id": "movie_id"} | columns)
    with pytest.raises(InputError, match=message):
        _items(tmp_path, mapping, movie_id=[1], title=["a"], tags=[["x"]])


def test_entities_known_only_by_id_are_in_order() -> None:
    assert known_only_by_id(pa.array(["10", "9", "1"])).ids.to_pylist() == ["1", "9", "10"]
    assert known_only_by_id(pa.array(["b10", "b9", "a"])).ids.to_pylist() == ["a", "b10", "b9"]
