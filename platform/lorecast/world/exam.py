"""Questions about the world with known answers, as the generate stage would put them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lorecast.knowledge.factors import FactorSet, Message, Side
from lorecast.world.accuracy import is_right
from lorecast.world.catalogue import World
from lorecast.world.truth import shown_histories, true_preferences
from lorecast.world.vocabulary import TASTE_FACTORS


@dataclass(frozen=True)
class Exam:
    """Questions about one side: all factors of the first entity, then all of the next …"""

    side: Side
    factors: tuple[str, ...]
    entities: NDArray[np.int64]
    """Places of the asked entities in the world's table of this side."""
    chats: list[list[Message]]
    accepted: tuple[pa.ListArray, ...]
    """Per factor, for each entity, the values that are right."""

    def grade(self, answers: Sequence[str]) -> NDArray[np.bool_]:
        """Which answers, given in the order of `chats`, are right: [factors, entities]."""
        by_factor = np.asarray(answers, object).reshape(-1, len(self.factors)).T
        return np.stack(
            [
                is_right(name, pa.array(given, pa.string()), accepted).to_numpy(False)
                for name, given, accepted in zip(
                    self.factors, by_factor, self.accepted, strict=True
                )
            ]
        )


def item_exam(world: World, factor_set: FactorSet, films: NDArray[np.int64] | None = None) -> Exam:
    """Every factor of the given films, or of all."""
    chosen = np.arange(len(world.items)) if films is None else films
    columns = world.items.drop_columns("item_id").take(chosen).to_pylist()
    factors = tuple(factor.name for factor in factor_set.item)
    truth = world.item_truth.take(chosen)
    one_each = pa.array(np.arange(chosen.size + 1), pa.int32())
    return Exam(
        side="item",
        factors=factors,
        entities=chosen,
        chats=[
            factor_set.messages("item", name, {"item": item})
            for item in columns
            for name in factors
        ],
        accepted=tuple(
            pa.ListArray.from_arrays(one_each, truth[name].combine_chunks()) for name in factors
        ),
    )


def user_exam(world: World, factor_set: FactorSet, users: NDArray[np.int64] | None = None) -> Exam:
    """Every factor of the given users, or of all, with their real histories before the cut-off."""
    chosen = np.arange(len(world.users)) if users is None else users
    profiles = world.users.drop_columns("user_id").take(chosen).to_pylist()
    histories = shown_histories(world).take(chosen)
    factors = tuple(factor.name for factor in factor_set.user)
    variables = [
        {"user": profile, "history": [], "liked": shown["liked"], "disliked": shown["disliked"]}
        for profile, shown in zip(profiles, histories.to_pylist(), strict=True)
    ]
    liked = histories["liked"].combine_chunks()
    return Exam(
        side="user",
        factors=factors,
        entities=chosen,
        chats=[factor_set.messages("user", name, each) for each in variables for name in factors],
        accepted=tuple(true_preferences(world, name, liked) for name in factors),
    )


def report(world: World, exam: Exam, answers: Sequence[str]) -> dict[str, dict[str, float]]:
    """Shares of right answers by factor; for items also of the most and least watched quarter."""
    grades = exam.grade(answers)
    parts = {"all": np.ones(exam.entities.size, bool)}
    if exam.side == "item":
        quarter = world.item_truth["popularity_quarter"].to_numpy()[exam.entities]
        parts |= {"popular": quarter == 1, "rare": quarter == 4}
    return {
        name: {part: round(float(row[chosen].mean()), 4) for part, chosen in parts.items()}
        for name, row in zip(exam.factors, grades, strict=True)
    }


def mean_accuracy(accuracy: dict[str, dict[str, float]], part: str) -> float:
    """The mean of a `report` over the factors that decide taste, for one part of the entities.

    The factor that repeats another and the one that is the same for all would flatter it.
    """
    return sum(accuracy[name][part] for name in TASTE_FACTORS) / len(TASTE_FACTORS)
