"""The scorer: probabilities of clicks from a bundle, in process. The same one serves HTTP.

What all kinds share is here: ids, histories, contexts, rankings. A kind adds how rows are scored,
see `click_scorer` and `yes_no_scorer`.

Ids are strings as in the tables; integers mean their decimal text. An id the model has never seen
takes row 0: it is scored by what else is known, and `unknown` names it. So is a value of the
context that is new or not given.

Shapes: B pairs, N candidates of one user, Q queries, L history, V entries of all histories, U
users, K context features.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lorecast.config import Side
from lorecast.data.histories import last_places
from lorecast.errors import InputError
from lorecast.lifecycle.card import BundleCard, kind_of

Id = str | int
History = Sequence[tuple[Id, float | None]]
"""(item id, rating), oldest first; without a rating it is an item alone."""
Context = Mapping[str, Id]
"""What is known of the moment, such as the device; see `Scorer.context_names`."""
Scores = NDArray[np.float32]


class Query(NamedTuple):
    """One user's candidates to be scored."""

    user_id: Id
    item_ids: Sequence[Id]
    history: History | None = None
    """Replaces the user's recent one; the last L with known items count."""
    context: Context | None = None


@dataclass(frozen=True, kw_only=True)
class Unknown:
    """Ids without a row, in the order given."""

    user_ids: tuple[Id, ...]
    item_ids: tuple[Id, ...]
    history_item_ids: tuple[Id, ...]
    context: tuple[str, ...]
    """Names of the features whose value is new."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Candidates of one user, in the order asked for."""

    item_ids: Sequence[Id]
    score_N: Scores
    unknown: Unknown

    def best(self, k: int) -> "Scored":
        """The `k` best, best first; ties keep their order."""
        place_K = np.argsort(-self.score_N, kind="stable")[:k]
        return Scored(
            item_ids=[self.item_ids[place] for place in place_K],
            score_N=self.score_N[place_K],
            unknown=self.unknown,
        )


class Scorer(ABC):
    """Scores pairs of users and items. Safe to call from several threads."""

    together: ClassVar[int]
    """Candidates up to which queries cost less together than one by one."""

    def __init__(self, bundle: BundleCard) -> None:
        self.bundle = bundle
        users, items = bundle.entities("user"), bundle.entities("item")
        self._user_row = _rows_by_id(users)
        self._item_row = _rows_by_id(items)
        self.all_items: Sequence[Id] = items["id"].to_pylist()
        self._recent_item_UL = _padded(users["recent_item_rows"], bundle.history_length)
        self._recent_level_UL = _padded(users["recent_ratings"], bundle.history_length)
        self._context_code = {
            name: {value: code for code, value in enumerate(values, start=1)}
            for name, values in bundle.contexts.items()
        }
        levels = np.asarray(bundle.rating_levels, dtype=np.float64)
        self._level_bounds = (levels[1:] + levels[:-1]) / 2

    @staticmethod
    def load(folder: str | Path, device: str = "cpu") -> "Scorer":
        """The scorer of the bundle in `folder`, of its kind; without Ray, MLflow or the dataset.

        `device`: torch's name of where a language model runs; click models stay on the CPU.
        Raises ArtifactError if the folder is missing, incomplete or holds something else.
        """
        match kind_of(folder):
            case "click":
                from lorecast.lifecycle.click_scorer import ClickScorer

                return ClickScorer.open(folder)
            case "sella":
                from lorecast.lifecycle.yes_no_scorer import YesNoScorer

                return YesNoScorer.open(folder, device)

    @abstractmethod
    def _probabilities(
        self,
        user_row_B: NDArray[np.int32],
        item_row_B: NDArray[np.int32],
        item_BL: NDArray[np.int32],
        level_BL: NDArray[np.int32],
        context_BK: NDArray[np.int32],
    ) -> Scores:
        """Of rows, [B]; histories by item rows and codes of ratings, newest last, 0 is padding. One
        history stands for all rows."""

    def warm_up(self) -> None:
        """Does once what a first request would wait for."""
        self.rank("", 1)

    @property
    def rating_range(self) -> tuple[float, float] | None:
        """Lowest and highest rating a history may hold; none if it holds items alone."""
        if not self.bundle.rates_histories:
            return None
        return self.bundle.rating_levels[0], self.bundle.rating_levels[-1]

    @property
    def context_names(self) -> tuple[str, ...]:
        """What a context may name."""
        return tuple(self._context_code)

    def score(
        self,
        user_ids: Sequence[Id],
        item_ids: Sequence[Id],
        histories: Sequence[History] | None = None,
        contexts: Sequence[Context] | None = None,
    ) -> Scores:
        """Probability of a click for each pair, [B].

        `histories` replace the users' recent ones; of each, the last L with known items count.
        Raises InputError if a context names what is none of the model's.
        """
        assert len(user_ids) == len(item_ids), "one item a user"
        user_row_B = self.rows("user", user_ids)
        item_row_B = self.rows("item", item_ids)
        context_BK = None if contexts is None else self.context_codes(contexts)
        if histories is None:
            return self.score_rows(user_row_B, item_row_B, context_BK)
        if context_BK is None:
            context_BK = self._no_context(len(user_ids))
        item_BL, level_BL = self._histories(histories)
        return self._probabilities(user_row_B, item_row_B, item_BL, level_BL, context_BK)

    def score_rows(
        self,
        user_row_B: NDArray[np.int32],
        item_row_B: NDArray[np.int32],
        context_BK: NDArray[np.int32] | None = None,
    ) -> Scores:
        """As `score`, of the rows of pairs and codes of contexts; histories are the recent ones."""
        if context_BK is None:
            context_BK = self._no_context(len(user_row_B))
        item_BL, level_BL = self.recent(user_row_B)
        return self._probabilities(user_row_B, item_row_B, item_BL, level_BL, context_BK)

    def candidates(
        self,
        user_id: Id,
        item_ids: Sequence[Id],
        history: History | None = None,
        context: Context | None = None,
    ) -> Scored:
        """Probabilities of one user's candidates; `history` and `context` as in `score`."""
        (scored,) = self.answer([Query(user_id, item_ids, history, context)])
        return scored

    def answer(self, queries: Sequence[Query]) -> list[Scored]:
        """As `candidates`, of several users in one pass. Scores may differ from theirs alone in
        the last bits, since products of another size are summed in another order."""
        user_row_Q = self.rows("user", [query.user_id for query in queries])
        item_row_B = self.rows("item", list(chain.from_iterable(q.item_ids for q in queries)))
        context_QK = self.context_codes([query.context or {} for query in queries])
        item_QL, level_QL = self.recent(user_row_Q)
        if given := [place for place, query in enumerate(queries) if query.history is not None]:
            item_QL[given], level_QL[given] = self._histories(
                [queries[place].history or () for place in given]
            )
        count_Q = [len(query.item_ids) for query in queries]
        owner_B = np.repeat(np.arange(len(queries)), count_Q)
        alone = len(queries) == 1
        score_B = self._probabilities(
            user_row_Q[owner_B],
            item_row_B,
            item_QL if alone else item_QL[owner_B],
            level_QL if alone else level_QL[owner_B],
            context_QK[owner_B],
        )
        ends = np.cumsum(count_Q)[:-1]
        of_each = zip(
            queries,
            user_row_Q,
            np.split(item_row_B, ends),
            context_QK,
            np.split(score_B, ends),
            strict=True,
        )
        return [
            Scored(
                item_ids=query.item_ids,
                score_N=score_N,
                unknown=Unknown(
                    user_ids=() if user_row else (query.user_id,),
                    item_ids=tuple(query.item_ids[i] for i in np.flatnonzero(item_row_N == 0)),
                    history_item_ids=self._unknown_items(item for item, _ in query.history or ()),
                    context=tuple(
                        name
                        for name, code in zip(self.context_names, context_K, strict=True)
                        if name in (query.context or ()) and not code
                    ),
                ),
            )
            for query, user_row, item_row_N, context_K, score_N in of_each
        ]

    def rank(
        self,
        user_id: Id,
        k: int,
        item_ids: Sequence[Id] | None = None,
        history: History | None = None,
        context: Context | None = None,
    ) -> Scored:
        """The `k` best candidates (default: of all items), best first; ties keep their order."""
        candidates = self.all_items if item_ids is None else item_ids
        return self.candidates(user_id, candidates, history, context).best(k)

    def recent(
        self, user_row_B: NDArray[np.integer]
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """The histories in the model of users by row: item rows and rating levels, newest last,
        padded on the left: [B, L] each."""
        return self._recent_item_UL[user_row_B], self._recent_level_UL[user_row_B]

    def rows(self, side: Side, ids: Sequence[Id]) -> NDArray[np.int32]:
        """The rows of ids, 0 where unknown."""
        known = self._user_row if side == "user" else self._item_row
        return np.fromiter(map(known.get, map(str, ids), repeat(0)), np.int32, len(ids))

    def context_codes(self, contexts: Sequence[Context]) -> NDArray[np.int32]:
        """Codes in the order of `context_names`, 0 for what is new or not given: [B, K].

        Raises InputError if a context names what is none of the model's.
        """
        if strange := set().union(*contexts).difference(self._context_code):
            known = ", ".join(self.context_names) or "none"
            raise InputError(
                f"the context names {min(strange)[:50]!r}; the model's contexts are: {known}"
            )
        codes_BK = np.zeros((len(contexts), len(self._context_code)), np.int32)
        for place, (name, code) in enumerate(self._context_code.items()):
            codes_BK[:, place] = [code.get(str(c[name]), 0) if name in c else 0 for c in contexts]
        return codes_BK

    def _no_context(self, num_pairs: int) -> NDArray[np.int32]:
        return np.zeros((num_pairs, len(self.context_names)), np.int32)

    def _unknown_items(self, ids: Iterable[Id]) -> tuple[Id, ...]:
        return tuple(item for item in ids if str(item) not in self._item_row)

    def _histories(
        self, histories: Sequence[History]
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Item rows and rating levels, newest last, padded on the left: [B, L] each."""
        L = self.bundle.history_length
        owner_V = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
        events = chain.from_iterable(histories)
        item_ids, ratings = tuple(zip(*events, strict=True)) or ((), ())
        row_V, rating_V = self.rows("item", item_ids), np.asarray(ratings, dtype=np.float64)
        known = row_V > 0
        owner_V, row_V, rating_V = owner_V[known], row_V[known], rating_V[known]
        column_V, kept = last_places(owner_V, len(histories), L)
        level_V = np.searchsorted(self._level_bounds, rating_V) + 1
        level_V[np.isnan(rating_V)] = 0
        item_BL = np.zeros((len(histories), L), np.int32)
        level_BL = np.zeros_like(item_BL)
        place = owner_V[kept], column_V[kept]
        item_BL[place] = row_V[kept]
        level_BL[place] = level_V[kept]
        return item_BL, level_BL


def _rows_by_id(entities: pa.Table) -> dict[str, int]:
    return {id_: row for row, id_ in enumerate(entities["id"].to_pylist(), start=1)}


def _padded(recent: pa.ChunkedArray, length: int) -> NDArray[np.int32]:
    """Histories by row, [rows + 1, L]; row 0 has none."""
    flat = recent.combine_chunks().flatten().to_numpy()
    padded_UL = np.zeros((len(recent) + 1, length), np.int32)
    padded_UL[1:] = flat.reshape(-1, length)
    return padded_UL
