"""The texts the tiny language model learns from: chats about films and about made-up viewers.

The chats are worded by the factor set that later asks the questions. A film is mentioned as often
as `corpus_mentions` says, so of rare films the model has read little or nothing. The viewers are
invented, they are not the users of the world.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lorecast.knowledge.factors import FactorSet, Message
from lorecast.world.catalogue import World
from lorecast.world.truth import HISTORY_SHOWN
from lorecast.world.vocabulary import HIDDEN_FACTORS, TASTE_FACTORS

_FEWEST_SHOWN = 3
_STRONGEST_TASTE = 2.0
_NOTHING_LIKED_SHARE = 0.01


@dataclass(frozen=True)
class Dialogue:
    """A question and its answer."""

    question: list[Message]
    answer: str


class Corpus:
    """All that the language model may read about a world."""

    def __init__(self, world: World, factor_set: FactorSet) -> None:
        self._factor_set = factor_set
        self._factors = [factor.name for factor in factor_set.item]
        self._films = world.items.select(["title", "year", "genre"]).to_pylist()
        self._titles = np.asarray([film["title"] for film in self._films], object)
        truth: dict[str, list[str]] = {
            name: world.item_truth[name].to_pylist() for name in HIDDEN_FACTORS
        }
        self._truth = truth
        self._codes = {
            name: np.asarray([HIDDEN_FACTORS[name].values.index(value) for value in column])
            for name, column in truth.items()
        }
        self._mentions = world.item_truth["corpus_mentions"].to_numpy()

    def passages(self) -> list[list[Dialogue]]:
        """Per film, in catalogue order, the chats which state its facts."""
        return [
            [self._fact(film, factor) for factor in self._factors]
            for film in range(len(self._films))
        ]

    def read(self, rng: np.random.Generator) -> list[int]:
        """One reading of all passages in random order: films by their place in the catalogue."""
        films = np.repeat(np.arange(len(self._films)), self._mentions)
        return [int(film) for film in rng.permutation(films)]

    def draw_viewers(
        self, rng: np.random.Generator, num_viewers: int, num_questions: int
    ) -> list[list[Dialogue]]:
        """Invented viewers, and for each some questions about what they prefer."""
        shape = (num_viewers, len(self._films))
        fit = np.zeros(shape)
        for name in TASTE_FACTORS:
            favourite = rng.integers(len(HIDDEN_FACTORS[name].values), size=(num_viewers, 1))
            fit += self._codes[name][None, :] == favourite
        fit *= rng.uniform(0, _STRONGEST_TASTE, (num_viewers, 1))
        with np.errstate(divide="ignore"):  # a film nobody wrote about is in no viewer's list
            fame = np.log(self._mentions)[None, :]
        by_liking = np.argsort(-(fame + fit + rng.gumbel(size=shape)), axis=1)
        num_shown = rng.integers(_FEWEST_SHOWN, HISTORY_SHOWN + 1, num_viewers)
        num_liked = rng.integers(1, num_shown + 1)
        num_liked[rng.random(num_viewers) < _NOTHING_LIKED_SHARE] = 0
        viewers = []
        for viewer in range(num_viewers):
            liked = by_liking[viewer, : num_liked[viewer]]
            disliked = rng.choice(
                by_liking[viewer, num_liked[viewer] : 100],
                num_shown[viewer] - num_liked[viewer],
                replace=False,
            )
            factors = rng.choice(self._factors, num_questions, replace=False)
            viewers.append(self._ask(rng, rng.permutation(liked), disliked, factors))
        return viewers

    def _fact(self, film: int, factor: str) -> Dialogue:
        question = self._factor_set.messages("item", factor, {"item": self._films[film]})
        return Dialogue(question, HIDDEN_FACTORS[factor].fact.format(self._truth[factor][film]))

    def _ask(
        self,
        rng: np.random.Generator,
        liked: NDArray[np.int64],
        disliked: NDArray[np.int64],
        factors: NDArray[Any],
    ) -> list[Dialogue]:
        variables = {
            "user": {},
            "history": [],
            "liked": self._titles[liked].tolist(),
            "disliked": self._titles[disliked].tolist(),
        }
        dialogues = []
        for name in factors:
            question = self._factor_set.messages("user", str(name), variables)
            dialogues.append(Dialogue(question, self._preference(rng, str(name), liked)))
        return dialogues

    def _preference(self, rng: np.random.Generator, factor: str, liked: NDArray[np.int64]) -> str:
        hidden = HIDDEN_FACTORS[factor]
        if liked.size == 0:
            return hidden.unclear
        counts = np.bincount(self._codes[factor][liked], minlength=len(hidden.values))
        favourite = rng.choice(np.flatnonzero(counts == counts.max()))
        return hidden.preference.format(hidden.values[favourite])
