"""The embedded world: films with hidden attributes, viewers with hidden tastes, their ratings.

Everything follows from a seed. What is planted:

- popularity is a power law of rank; a share of the films comes out late, a share of the viewers
  rates little (cold items, cold users);
- what a viewer likes depends on the genre, which the catalogue shows, and on five hidden factors,
  which it does not; each viewer has one favourite value per factor;
- viewers pick films by popularity and by taste; nobody rates a film twice.

Films are many and ratings of most of them few, so that identifiers alone cannot reveal the hidden
factors: that is the room which knowledge has.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lorecast.world.vocabulary import (
    AGE_GROUPS,
    GENRES,
    HIDDEN_FACTORS,
    HOMOGENISED,
    REDUNDANT,
    REGIONS,
    TASTE_FACTORS,
    TITLE_NAMES,
    TITLE_NOUNS,
)

DEFAULT_SEED: Final = 7
"""The seed of the world that the shipped language model knows."""
LIKE_ABOVE: Final = 3
"""A rating above this is a like."""

_NUM_FILMS: Final = 600
_NUM_VIEWERS: Final = 2000
_POPULARITY_EXPONENT: Final = 1.2
_POPULARITY_OFFSET: Final = 12
_LATE_SHARE: Final = 0.15
_COLD_VIEWER_SHARE: Final = 0.1
_CORPUS_MENTIONS: Final = 14_000
_CORPUS_EXPONENT: Final = 1.7
_START: Final = 1_672_531_200
"""2023-01-01, in seconds since 1970 like every time of the world."""
_SPAN_S: Final = 2 * 365 * 86_400

_GENRE_WEIGHT: Final = 0.8
_FACTOR_WEIGHT: Final = 1.6
_QUALITY_WEIGHT: Final = 0.5
_NOISE: Final = 0.5
_PICK_BY_TASTE: Final = 1.0
_RATING_SHARES: Final = (0.10, 0.15, 0.23, 0.30, 0.22)
"""Of one to five stars."""

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]


@dataclass(frozen=True)
class World:
    """Tables of one world, and the truth behind them (for tests and audits only).

    items: item_id, title, year, genre. users: user_id, age_group, region. interactions: user_id,
    item_id, rating (1 to 5), timestamp (s), in time order. item_truth, in the order of items:
    item_id, title, a column per hidden factor, num_interactions, popularity_quarter (1 = most
    watched), corpus_mentions (passages about the film in what the
    language model read).
    """

    seed: int
    items: pa.Table
    users: pa.Table
    interactions: pa.Table
    item_truth: pa.Table


@dataclass(frozen=True)
class _Films:
    title: NDArray[np.str_]
    year: Codes
    genre: Codes
    hidden: dict[str, Codes]
    quality: Floats
    popularity: Floats
    release: Codes


@dataclass(frozen=True)
class _Viewers:
    age_group: Codes
    region: Codes
    activity: Codes
    """Number of films the viewer rates."""
    arrival: Codes
    leaving: Codes


def generate(seed: int = DEFAULT_SEED) -> World:
    """The world of a seed: equal seeds give equal tables."""
    rng = np.random.default_rng(seed)
    films = _make_films(rng)
    viewers = _make_viewers(rng)
    taste = _make_taste(rng, films, viewers)
    user, item, rating, time = _make_ratings(rng, films, viewers, taste)

    item_id = np.char.add("f", np.char.zfill((rng.permutation(_NUM_FILMS) + 1).astype(str), 4))
    user_id = np.char.add("u", np.char.zfill(np.arange(1, _NUM_VIEWERS + 1).astype(str), 4))
    num_interactions = np.bincount(item, minlength=_NUM_FILMS)
    hidden = {
        name: np.asarray(factor.values)[films.hidden[name]]
        for name, factor in HIDDEN_FACTORS.items()
    }
    return World(
        seed=seed,
        items=pa.table(
            {
                "item_id": item_id,
                "title": films.title,
                "year": films.year,
                "genre": np.asarray(GENRES)[films.genre],
            }
        ),
        users=pa.table(
            {
                "user_id": user_id,
                "age_group": np.asarray(AGE_GROUPS)[viewers.age_group],
                "region": np.asarray(REGIONS)[viewers.region],
            }
        ),
        interactions=pa.table(
            {
                "user_id": user_id[user],
                "item_id": item_id[item],
                "rating": rating,
                "timestamp": time,
            }
        ),
        item_truth=pa.table(
            {
                "item_id": item_id,
                "title": films.title,
                **hidden,
                "num_interactions": num_interactions,
                "popularity_quarter": _quarters(num_interactions),
                "corpus_mentions": _corpus_mentions(num_interactions),
            }
        ),
    )


def _make_films(rng: np.random.Generator) -> _Films:
    name = np.resize(rng.permutation(len(TITLE_NAMES)), _NUM_FILMS)
    num_uses_before = np.arange(_NUM_FILMS) // len(TITLE_NAMES)
    noun_of_name = rng.integers(len(TITLE_NOUNS), size=len(TITLE_NAMES))
    noun = (noun_of_name[name] + 5 * num_uses_before) % len(TITLE_NOUNS)
    title = np.char.add(
        np.char.add(np.asarray(TITLE_NAMES)[name], " "), np.asarray(TITLE_NOUNS)[noun]
    )
    hidden = {
        name: rng.integers(len(HIDDEN_FACTORS[name].values), size=_NUM_FILMS)
        for name in TASTE_FACTORS
    }
    hidden |= {name: hidden[repeated] for name, repeated in REDUNDANT.items()}
    hidden |= {name: np.zeros(_NUM_FILMS, np.int64) for name in HOMOGENISED}
    rank = rng.permutation(_NUM_FILMS)
    late = rng.random(_NUM_FILMS) < _LATE_SHARE
    release = np.where(late, _START + rng.integers(_SPAN_S // 2, _SPAN_S, _NUM_FILMS), 0)
    return _Films(
        title=title,
        year=np.where(late, 2023 + (release - _START) // (365 * 86_400), 0)
        + np.where(late, 0, rng.integers(1950, 2023, _NUM_FILMS)),
        genre=rng.integers(len(GENRES), size=_NUM_FILMS),
        hidden=hidden,
        quality=rng.standard_normal(_NUM_FILMS),
        popularity=np.power(rank + _POPULARITY_OFFSET, -_POPULARITY_EXPONENT),
        release=release,
    )


def _make_viewers(rng: np.random.Generator) -> _Viewers:
    activity = np.exp(rng.normal(np.log(50), 0.6, _NUM_VIEWERS)).astype(np.int64).clip(12, 200)
    cold = rng.random(_NUM_VIEWERS) < _COLD_VIEWER_SHARE
    activity = np.where(cold, rng.integers(4, 10, _NUM_VIEWERS), activity)
    arrival = _START + rng.integers(0, _SPAN_S * 3 // 4, _NUM_VIEWERS)
    stay = rng.integers(_SPAN_S // 8, _SPAN_S // 2, _NUM_VIEWERS)
    return _Viewers(
        age_group=rng.integers(len(AGE_GROUPS), size=_NUM_VIEWERS),
        region=rng.integers(len(REGIONS), size=_NUM_VIEWERS),
        activity=activity,
        arrival=arrival,
        leaving=np.minimum(arrival + stay, _START + _SPAN_S),
    )


def _make_taste(rng: np.random.Generator, films: _Films, viewers: _Viewers) -> Floats:
    """How much each viewer would like each film, without quality and noise: [viewers, films]."""
    lean = rng.dirichlet(np.full(len(GENRES), 2.0), size=len(AGE_GROUPS)).cumsum(axis=1)
    draw = rng.random((_NUM_VIEWERS, 1))
    favourite_genre = (draw > lean[viewers.age_group]).sum(axis=1).clip(max=len(GENRES) - 1)
    taste = _GENRE_WEIGHT * _liking(rng, favourite_genre, len(GENRES))[:, films.genre]
    for name in TASTE_FACTORS:
        num_values = len(HIDDEN_FACTORS[name].values)
        favourite = rng.integers(num_values, size=_NUM_VIEWERS)
        taste += _FACTOR_WEIGHT * _liking(rng, favourite, num_values)[:, films.hidden[name]]
    return taste


def _liking(rng: np.random.Generator, favourite: Codes, num_values: int) -> Floats:
    """Each viewer's liking of each value: the favourite stands out. [viewers, values]"""
    liking = rng.normal(0.0, 0.25, (_NUM_VIEWERS, num_values))
    liking[np.arange(_NUM_VIEWERS), favourite] = 1.0
    liking -= liking.mean(axis=1, keepdims=True)
    return liking


def _make_ratings(
    rng: np.random.Generator, films: _Films, viewers: _Viewers, taste: Floats
) -> tuple[Codes, Codes, Codes, Codes]:
    """user, item, rating and time of every interaction, in time order."""
    pull = np.log(films.popularity) + _PICK_BY_TASTE * taste
    pull += rng.gumbel(size=taste.shape)
    available = films.release[None, :] < viewers.leaving[:, None] - 86_400
    order = np.argsort(np.where(available, -pull, np.inf), axis=1)
    user, place = np.nonzero(np.arange(_NUM_FILMS)[None, :] < viewers.activity[:, None])
    item = order[user, place]

    earliest = np.maximum(viewers.arrival[user], films.release[item])
    time = earliest + (rng.random(user.size) * (viewers.leaving[user] - earliest)).astype(np.int64)
    liking = taste[user, item] + _QUALITY_WEIGHT * films.quality[item]
    liking += _NOISE * rng.standard_normal(user.size)
    cuts = np.quantile(liking, np.cumsum(_RATING_SHARES)[:-1])
    rating = np.searchsorted(cuts, liking) + 1
    in_time = np.lexsort((item, user, time))
    return user[in_time], item[in_time], rating[in_time], time[in_time]


def _quarters(num_interactions: Codes) -> Codes:
    rank = np.argsort(np.argsort(-num_interactions, kind="stable"), kind="stable")
    return np.asarray(1 + rank * 4 // num_interactions.size, np.int64)


def _corpus_mentions(num_interactions: Codes) -> Codes:
    share = np.power(num_interactions + 1.0, _CORPUS_EXPONENT)
    return np.asarray(np.rint(_CORPUS_MENTIONS * share / share.sum()), np.int64)
