"""What the page shows of a scorer, as plain values; the page only lays it out.

Everything is worked out for one request and kept no longer: the scorer may be swapped after it.

Legend: N candidates, L history, C chunks of both sides.
"""

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from lorecast.config import Side
from lorecast.lifecycle.bundle import Bundle
from lorecast.lifecycle.click_scorer import ClickScorer
from lorecast.lifecycle.scorer import Scorer, Scores
from lorecast.lifecycle.texts import read_texts

SHOWN: Final = 10
"""Places of a ranking."""
_MOST_ASKED: Final = 24
"""Candidates of a language model, which takes its time for each."""
_EXAMPLES: Final = 6
_SAMPLED_USERS: Final = 4096
_SIDES: Final[tuple[Side, Side]] = ("item", "user")


@dataclass(frozen=True, kw_only=True)
class Seen:
    """An interaction of a history."""

    item_id: str
    title: str
    rating: float | None


@dataclass(frozen=True, kw_only=True)
class Place:
    """An item in a ranking."""

    item_id: str
    title: str
    place: int
    score: float
    gain: int
    """Places that knowledge moves it up."""


@dataclass(frozen=True, kw_only=True)
class Told:
    """A chunk of knowledge, as far as it is known."""

    side: Side
    field: str
    factor: str
    texts: tuple[str, ...]
    gate: float | None
    """ESFNet's weight; none if there is no text, or nothing that weighs."""


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """One item before one user."""

    item_id: str
    title: str
    is_known: bool
    score: float
    bare_score: float | None
    told: tuple[Told, ...]
    has_texts: bool
    has_gates: bool


@dataclass(frozen=True, kw_only=True)
class View:
    """A user, the rankings, and one item of them."""

    user_id: str
    is_known: bool
    history: tuple[Seen, ...]
    """Newest first."""
    num_candidates: int
    is_thinned: bool
    """The candidates are not the whole catalogue."""
    ranking: tuple[Place, ...]
    bare_ranking: tuple[Place, ...] = field(default=())
    """Of the model without knowledge; empty if it has none anyway."""
    chosen: Chosen


def examples(scorer: Scorer) -> list[str]:
    """Ids of a few users with long histories, evenly spaced over the rows."""
    num_users = scorer.bundle.num_users
    row_U = np.unique(np.linspace(1, num_users, min(num_users, _SAMPLED_USERS)).astype(np.int32))
    length_U = (scorer.recent(row_U)[0] > 0).sum(1)
    longest_U = row_U[length_U >= np.quantile(length_U, 0.5)]
    places = np.linspace(0, len(longest_U) - 1, min(len(longest_U), _EXAMPLES)).astype(int)
    return [id_ for id_, _ in scorer.bundle.names("user", longest_U[places])]


def view(scorer: Scorer, user_id: str, item_id: str | None, *, max_items: int) -> View:
    """What there is to show of a user and, unless `item_id` is given, the item ranked first."""
    (user_row,) = scorer.rows("user", [user_id])
    item_L, level_L = (each[0][::-1] for each in scorer.recent(np.array([user_row])))
    past, level_L = item_L[item_L > 0], level_L[item_L > 0]
    candidates = _candidates(scorer, past, max_items)
    names = scorer.bundle.names("item", candidates)
    ids = [id_ for id_, _ in names]
    score_N = scorer.candidates(user_id, ids).score_N
    bare = _bare(scorer)
    bare_N = None if bare is None else bare.candidates(user_id, ids).score_N
    ranking = _ranking(names, score_N, bare_N, score_N)
    item_id = item_id or ranking[0].item_id
    return View(
        user_id=user_id,
        is_known=bool(user_row),
        history=_history(scorer, past, level_L),
        num_candidates=len(ids),
        is_thinned=len(ids) + len(np.unique(past)) < scorer.bundle.num_items,
        ranking=ranking,
        bare_ranking=() if bare_N is None else _ranking(names, bare_N, bare_N, score_N),
        chosen=_chosen(scorer, bare, user_id, item_id),
    )


def _candidates(scorer: Scorer, past: NDArray[np.int32], max_items: int) -> NDArray[np.int64]:
    """Rows of all items that the history lacks, or of some of them, evenly spaced."""
    most = max_items if isinstance(scorer, ClickScorer) else min(max_items, _MOST_ASKED)
    all_N = np.arange(1, scorer.bundle.num_items + 1)
    new_N = np.setdiff1d(all_N, past) if len(np.unique(past)) < len(all_N) else all_N
    if len(new_N) <= most:
        return new_N
    return new_N[np.linspace(0, len(new_N) - 1, most).astype(np.int64)]


def _bare(scorer: Scorer) -> Scorer | None:
    if isinstance(scorer, ClickScorer) and scorer.bundle.knowledge is not None:
        return scorer.without_knowledge()
    return None


def _history(
    scorer: Scorer, row_L: NDArray[np.int32], level_L: NDArray[np.int32]
) -> tuple[Seen, ...]:
    levels = scorer.bundle.rating_levels
    rates = scorer.rating_range is not None
    return tuple(
        Seen(item_id=id_, title=title, rating=levels[level - 1] if rates and level else None)
        for (id_, title), level in zip(
            scorer.bundle.names("item", row_L), level_L.tolist(), strict=True
        )
    )


def _ranking(
    names: list[tuple[str, str]], score_N: Scores, bare_N: Scores | None, told_N: Scores
) -> tuple[Place, ...]:
    """The best by `score_N`; `bare_N` and `told_N` are the scores without and with knowledge."""
    gain_N = places(told_N if bare_N is None else bare_N) - places(told_N)
    return tuple(
        Place(
            item_id=names[n][0],
            title=names[n][1],
            place=place,
            score=float(score_N[n]),
            gain=int(gain_N[n]),
        )
        for place, n in enumerate(np.argsort(-score_N, kind="stable")[:SHOWN].tolist(), start=1)
    )


def places(score_N: Scores) -> NDArray[np.int64]:
    """place_N in the ranking by these scores, from 0."""
    place_N = np.empty(len(score_N), np.int64)
    place_N[np.argsort(-score_N, kind="stable")] = np.arange(len(score_N))
    return place_N


def _chosen(scorer: Scorer, bare: Scorer | None, user_id: str, item_id: str) -> Chosen:
    (row,) = scorer.rows("item", [item_id])
    scores = [float(s.candidates(user_id, [item_id]).score_N[0]) for s in (scorer, bare) if s]
    told: tuple[Told, ...] = ()
    has_texts = has_gates = False
    if isinstance(scorer, ClickScorer):
        told, has_texts, has_gates = _told(scorer, scorer.bundle, user_id, item_id)
    return Chosen(
        item_id=item_id,
        title=scorer.bundle.names("item", np.array([row]))[0][1] if row else item_id,
        is_known=bool(row),
        score=scores[0],
        bare_score=scores[1] if bare else None,
        told=told,
        has_texts=has_texts,
        has_gates=has_gates,
    )


def _told(
    scorer: ClickScorer, bundle: Bundle, user_id: str, item_id: str
) -> tuple[tuple[Told, ...], bool, bool]:
    """(chunks, whether the bundle holds texts, whether the model weighs them)."""
    if bundle.knowledge is None:
        return (), False, False
    chunks = bundle.knowledge.all_chunks
    gate_C = scorer.gates(user_id, item_id)
    texts: dict[tuple[Side, int], list[str]] = {}
    has_texts = False
    for side, id_ in zip(_SIDES, (item_id, user_id), strict=True):
        found = read_texts(bundle.path, side, int(scorer.rows(side, [id_])[0]))
        has_texts = has_texts or found is not None
        for text in found or ():
            texts.setdefault((side, text.place), []).append(text.text)
    first = {
        side: next(i for i, each in enumerate(chunks) if each[0] == side) for side, _ in chunks
    }
    told = tuple(
        Told(
            side=side,
            field=chunk.field,
            factor=chunk.factor,
            texts=tuple(texts.get((side, place - first[side]), ())),
            gate=None if gate_C is None or np.isnan(gate_C[place]) else float(gate_C[place]),
        )
        for place, (side, chunk) in enumerate(chunks)
    )
    return told, has_texts, gate_C is not None
