"""What the small language model reads: chats about MovieLens' films, from texts and credits alone.

    about     a film's title, then what one of six sources says of it, cut
    credits   a film's title, then genres, director, actors, year
    viewers   an invented viewer's liked films, then films that are like them (Yes) or are any (No)

Invented viewers like what is near one film by genres, people and decade. No rating, no count of
ratings, no vote and no text about a real user is read.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from lorecast.config import PromptConfig

Messages = list[dict[str, str]]
_SOURCES = ("knowledge/item.parquet", "item_texts.parquet")
_TEXT_CHARACTERS = 500
_ACTORS = 3
_VIEWERS = 3000
_FEWEST_LIKED = 2
_QUESTIONS = 8
_NEARNESS = 0.04
"""Temperature: the smaller, the more alike are a viewer's films."""
_MOST_TELLING = 3.0
"""Weight of a feature at most, so that two films need not share a person to be near."""


def files(folder: Path) -> list[Path]:
    """All that is read."""
    return [folder / name for name in ("movies.parquet", "movies_meta.parquet", *_SOURCES)]


@dataclass(frozen=True)
class Films:
    """MovieLens' films in the order of their table."""

    table: pd.DataFrame
    texts: pd.DataFrame

    @classmethod
    def read(cls, folder: Path) -> "Films":
        """`folder`: ml-1m of the test data."""
        movies = pq.read_table(
            folder / "movies.parquet", columns=["movie_id", "title", "genres", "year"]
        ).to_pandas()
        columns = ["movie_id", "director", "actors"]
        people = pq.read_table(folder / "movies_meta.parquet", columns=columns).to_pandas()
        texts = [
            pq.read_table(folder / name, columns=["movie_id", "text"]).to_pandas()
            for name in _SOURCES
        ]
        table = movies.merge(people, on="movie_id", how="left").fillna(
            {"director": "", "actors": ""}
        )
        said = pd.concat(texts).merge(movies[["movie_id", "title"]], on="movie_id")
        return cls(table, said[said["text"].fillna("").str.strip() != ""])

    def chats(self, prompt: PromptConfig, seed: int) -> Iterator[Messages]:
        """All chats once, in random order; viewers' are worded as `prompt` says."""
        rng = np.random.default_rng(seed)
        kinds = [[*self._about()], [*self._credits()], [*self._viewers(prompt, rng)]]
        all_of_them = [chat for chats in kinds for chat in chats]
        return (all_of_them[place] for place in rng.permutation(len(all_of_them)))

    def _about(self) -> Iterator[Messages]:
        for title, text in self.texts[["title", "text"]].itertuples(index=False):
            yield _turns(f"Movie: {title}", _cut(text))

    def _credits(self) -> Iterator[Messages]:
        for film in self.table.itertuples(index=False):
            told = {
                "Genres": film.genres.replace("|", ", "),
                "Director": film.director.replace("|", ", "),
                "Actors": ", ".join(film.actors.split("|")[:_ACTORS]),
                "Year": str(film.year),
            }
            answer = ". ".join(f"{name}: {value}" for name, value in told.items() if value)
            yield _turns(f"Movie: {film.title}. Credits", f"{answer}.")

    def _viewers(self, prompt: PromptConfig, rng: np.random.Generator) -> Iterator[Messages]:
        near_NF, titles = self._features(), self.table["title"].to_numpy()
        most = prompt.history_titles
        for centre in rng.integers(len(titles), size=_VIEWERS):
            cosine_N = np.asarray((near_NF @ near_NF[centre].T).todense()).ravel()
            share_N = np.exp((cosine_N - cosine_N.max()) / _NEARNESS)
            drawn = rng.choice(
                len(titles), most + _QUESTIONS, replace=False, p=share_N / share_N.sum()
            )
            liked = titles[drawn[: rng.integers(_FEWEST_LIKED, most + 1)]]
            fits_Q = rng.random(_QUESTIONS) < 0.5
            target_Q = np.where(fits_Q, drawn[most:], rng.integers(len(titles), size=_QUESTIONS))
            yield _questions(prompt, liked, titles[target_Q], fits_Q)

    def _features(self) -> csr_matrix:
        """A row of length 1 a film: genres, people and decade, the rarer the longer: [N, F]."""
        named = [
            {
                *(f"genre {name}" for name in film.genres.split("|")),
                *(f"person {name}" for name in film.director.split("|")),
                *(f"person {name}" for name in film.actors.split("|")[:_ACTORS]),
                f"decade {film.year // 10}",
            }
            - {"person "}
            for film in self.table.itertuples(index=False)
        ]
        place_V, code_V = _pairs(named)
        count_F = np.bincount(code_V)
        weight_V = np.minimum(np.log(len(named) / count_F), _MOST_TELLING)[code_V]
        length_N = np.sqrt(np.bincount(place_V, weight_V**2))
        return csr_matrix((weight_V / length_N[place_V], (place_V, code_V)))


def _pairs(named: list[set[str]]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Film and feature of every feature a film has."""
    place_V = np.repeat(np.arange(len(named)), [len(names) for names in named])
    names = [name for of_film in named for name in sorted(of_film)]
    return place_V, np.unique(names, return_inverse=True)[1]


def _questions(
    prompt: PromptConfig, liked: NDArray[Any], targets: NDArray[Any], fits: NDArray[np.bool_]
) -> Messages:
    """A system's turn, then the list with the first question, then the other questions."""
    shown = prompt.separator.join(prompt.title.replace("{title}", title) for title in liked)
    asked = [prompt.target.replace("{title}", title) for title in targets]
    asked[0] = prompt.history.replace("{titles}", shown) + asked[0]
    chat = [{"role": "system", "content": prompt.system}] if prompt.system else []
    for question, yes in zip(asked, fits, strict=True):
        chat += _turns(question.removeprefix(". "), "Yes." if yes else "No.")
    return chat


def _turns(question: str, answer: str) -> Messages:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _cut(text: str) -> str:
    """Its beginning, to the end of a word."""
    text = " ".join(text.split())
    return text if len(text) <= _TEXT_CHARACTERS else text[:_TEXT_CHARACTERS].rpartition(" ")[0]
