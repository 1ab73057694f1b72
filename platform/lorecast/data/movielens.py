"""The source `movielens`: a folder of GroupLens' files, or of the same tables as Parquet.

    ratings.parquet, movies.parquet, users.parquet    user_id, movie_id, rating, ts or timestamp,
                                                      user_seq (rank inside the user) if known
    ratings.dat, movies.dat, users.dat                MovieLens-1M, 10M
    u.data, u.item, u.user                            MovieLens-100K
    ratings.csv, movies.csv                           20M and later, and the "latest" sets

Users are optional. Items get a title as one says it, their genres as text, and the first genre as
the feature `genre`; users get gender, age group and occupation as words for prompts.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lorecast.artifacts import fingerprint_files
from lorecast.config import DatasetConfig, EntityColumns, InteractionColumns
from lorecast.data import parsing
from lorecast.data.entities import Entities, entities_of
from lorecast.data.files import Chunk, CsvFormat, TableFiles
from lorecast.data.sources import source_folder
from lorecast.errors import InputError

ITEM = EntityColumns(
    file="movies", id="movie_id", title="title", text=("genres",), features=("genre",)
)
USER = EntityColumns(file="users", id="user_id", text=("gender", "age", "occupation"))

_FLAGS_100K: Final = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime"),
    *("Documentary", "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery"),
    *("Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
_NO_GENRE: Final = ("unknown", "(no genres listed)", "")
_GENDERS: Final = {"F": "female", "M": "male"}
_AGE_FROM: Final = (18, 25, 35, 45, 50, 56)
_AGES: Final = ("under 18", "18-24", "25-34", "35-44", "45-49", "50-55", "56 or older")
_OCCUPATIONS: Final = {
    "0": "in an unknown occupation",
    "1": "an academic or educator",
    "2": "an artist",
    "3": "in clerical or administrative work",
    "4": "a college or graduate student",
    "5": "in customer service",
    "6": "a doctor or in health care",
    "7": "an executive or manager",
    "8": "a farmer",
    "9": "a homemaker",
    "10": "a school student",
    "11": "a lawyer",
    "12": "a programmer",
    "13": "retired",
    "14": "in sales or marketing",
    "15": "a scientist",
    "16": "self-employed",
    "17": "a technician or engineer",
    "18": "a tradesman or craftsman",
    "19": "unemployed",
    "20": "a writer",
    "administrator": "an administrator",
    "artist": "an artist",
    "doctor": "a doctor",
    "educator": "an educator",
    "engineer": "an engineer",
    "entertainment": "in entertainment",
    "executive": "an executive",
    "healthcare": "in health care",
    "homemaker": "a homemaker",
    "lawyer": "a lawyer",
    "librarian": "a librarian",
    "marketing": "in marketing",
    "none": "unemployed",
    "other": "in an unknown occupation",
    "programmer": "a programmer",
    "retired": "retired",
    "salesman": "a salesman",
    "scientist": "a scientist",
    "student": "a student",
    "technician": "a technician",
    "writer": "a writer",
}
"""Codes of MovieLens-1M and words of MovieLens-100K, as a person would say it."""


class MovieLensSource:
    """One MovieLens folder. Raises InputError if it holds none of the known sets of files."""

    def __init__(self, config: DatasetConfig) -> None:
        folder = source_folder(config)
        known = {
            "ratings.parquet": ("movies.parquet", "users.parquet"),
            "ratings.dat": ("movies.dat", "users.dat"),
            "u.data": ("u.item", "u.user"),
            "ratings.csv": ("movies.csv", ""),
        }
        ratings = next((name for name in known if (folder / name).is_file()), None)
        if ratings is None:
            raise InputError(f"{folder}: no MovieLens ratings; expected one of {', '.join(known)}")
        self._ratings = folder / ratings
        self._movies, self._users = (folder / name for name in known[ratings])
        if not self._movies.is_file():
            raise InputError(f"{self._movies}: no such file; it belongs to {ratings}")
        self._files, self.columns = ratings_files(self._ratings)
        used = [name for name in (config.split.column,) if name]
        self._files.require(used, "dataset.split.column")

    def fingerprint(self) -> str:
        files = [self._ratings, self._movies, *([self._users] if self._users.is_file() else [])]
        return fingerprint_files(files)

    def interactions(self, scratch: Path) -> TableFiles:  # noqa: ARG002
        return self._files

    def items(self) -> Entities:
        return movies(self._movies)

    def users(self) -> Entities | None:
        return people(self._users) if self._users.is_file() else None


def movies(path: Path) -> Entities:
    """The items of a file in any of the sets' forms, by its ending."""
    chunk = _read_movies(path)
    genres = parsing.texts(chunk.table["genres"])
    genres = pc.if_else(pc.is_in(genres, pa.array(_NO_GENRE)), None, genres)
    table = pa.table(
        {
            "movie_id": chunk.table["movie_id"],
            "title": said_titles(parsing.texts(chunk.table["title"])),
            "genres": pc.replace_substring(genres, "|", ", "),
            "genre": pc.replace_substring_regex(genres, r"\|.*", ""),
        }
    )
    return entities_of(Chunk(0, table, chunk.malformed), str(path), "item", ITEM)


def people(path: Path) -> Entities:
    """The users, likewise."""
    chunk = _read_users(path)
    ages = pc.fill_null(parsing.numbers(chunk.table["age"]), -1).to_numpy()
    group = np.searchsorted(_AGE_FROM, ages, side="right")
    table = pa.table(
        {
            "user_id": chunk.table["user_id"],
            "gender": _words(chunk.table["gender"], _GENDERS),
            "age": pa.array(_AGES).take(pa.array(group, mask=ages < 0)),
            "occupation": _words(chunk.table["occupation"], _OCCUPATIONS),
        }
    )
    return entities_of(Chunk(0, table, chunk.malformed), str(path), "user", USER)


def said_titles(titles: pa.StringArray) -> pa.StringArray:
    """`Matrix, The (1999)` → `The Matrix (1999)`; articles after the first bracket stay."""
    return pc.replace_substring_regex(titles, r"^([^(]*), (The|A|An) \(", r"\2 \1 (")


def ratings_files(path: Path) -> tuple[TableFiles, InteractionColumns]:
    """Ratings in any of the sets' forms, by the file's ending."""

    def columns(user: str, item: str, time: str, order: str | None = None) -> InteractionColumns:
        return InteractionColumns(
            file=path.name, user=user, item=item, rating="rating", timestamp=time, order=order
        )

    if path.suffix == ".parquet":
        files = TableFiles(paths=(path,))
        names = files.column_types()
        time = "timestamp" if "timestamp" in names else "ts"
        order = "user_seq" if "user_seq" in names else None
        files.require(("user_id", "movie_id", "rating", time), "source: movielens")
        return files, columns("user_id", "movie_id", time, order)
    if path.suffix == ".csv":
        files = TableFiles.find(path.parent, path.name)
        files.require(("userId", "movieId", "rating", "timestamp"), "source: movielens")
        return files, columns("userId", "movieId", "timestamp")
    if path.suffix == ".dat":
        # `::` between fields is read as `:` with an empty field between.
        csv = CsvFormat(
            delimiter=":", names=("user_id", "", "movie_id", " ", "rating", "  ", "timestamp")
        )
    else:
        csv = CsvFormat(delimiter="\t", names=("user_id", "movie_id", "rating", "timestamp"))
    return TableFiles(paths=(path,), csv=csv), columns("user_id", "movie_id", "timestamp")


def _read_movies(path: Path) -> Chunk:
    """movie_id, title, genres separated by `|`."""
    if path.suffix == ".dat":
        return _split_lines(path, "::", ("movie_id", "title", "genres"))
    if path.suffix != ".item":
        files = TableFiles.find(path.parent, path.name)
        names = ("movieId" if path.suffix == ".csv" else "movie_id", "title", "genres")
        files.require(names, "source: movielens")
        chunk = files.read(names)
        table = chunk.table.rename_columns(["movie_id", "title", "genres"])
        return Chunk(0, table, chunk.malformed)
    plain = ("movie_id", "title", "released", "video", "url")
    chunk = _split_lines(path, "|", (*plain, *_FLAGS_100K))
    marked = [pc.if_else(pc.equal(chunk.table[genre], "1"), genre, None) for genre in _FLAGS_100K]
    options = pc.JoinOptions(null_handling="skip")
    genres = pc.binary_join_element_wise(*marked, "|", options=options)
    return Chunk(
        0,
        chunk.table.select(["movie_id", "title"]).append_column("genres", genres),
        chunk.malformed,
    )


def _read_users(path: Path) -> Chunk:
    """user_id, gender (F, M), age in years or the code of its group, occupation."""
    if path.suffix == ".dat":
        return _split_lines(path, "::", ("user_id", "gender", "age", "occupation", "zip"))
    if path.suffix == ".user":
        return _split_lines(path, "|", ("user_id", "age", "gender", "occupation", "zip"))
    files = TableFiles.find(path.parent, path.name)
    names = ("user_id", "gender", "age", "occupation")
    files.require(names, "source: movielens")
    return files.read(names)


def _split_lines(path: Path, separator: str, names: Sequence[str]) -> Chunk:
    """A small headerless file; older sets are written in Latin-1, newer ones in UTF-8."""
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    lines = pa.array(text.replace("\r\n", "\n").removesuffix("\n").split("\n"))
    whole = pc.equal(pc.count_substring(lines, separator), len(names) - 1)
    fields = pc.split_pattern(lines.filter(whole), separator)
    table = pa.table({name: pc.list_element(fields, place) for place, name in enumerate(names)})
    return Chunk(0, table, tuple(lines.filter(pc.invert(whole)).to_pylist()))


def _words(codes: pa.ChunkedArray, words: dict[str, str]) -> pa.StringArray:
    """The words of known codes; other values as they are."""
    text = parsing.texts(codes)
    known = pa.array(list(words.values())).take(pc.index_in(text, pa.array(list(words))))
    return pc.coalesce(known, text)
