"""Who is in which arm."""

from collections.abc import Mapping

import numpy as np
import pytest

from lorecast.config import MAIN_ARM
from lorecast.serve.assignment import Draw, draw

_USERS = [f"u{n}" for n in range(20_000)]


def _members(shares: Mapping[str, float], salt: str = "") -> dict[str, set[str]]:
    who = Draw(salt, shares)
    members: dict[str, set[str]] = {arm: set() for arm in (*shares, MAIN_ARM)}
    for user in _USERS:
        members[who.arm(user)].add(user)
    return members


def test_a_draw_is_the_same_for_ever() -> None:
    """Another digest would move every user of every running experiment."""
    drawn = [draw("", "u1"), draw("", "7"), draw("spring", "u1")]
    assert drawn == [0.5441358768077258, 0.6372689200767745, 0.9183496137806095]


def test_draws_are_even() -> None:
    drawn = np.sort([draw("", user) for user in _USERS])
    distance = np.abs(drawn - (np.arange(len(drawn)) + 0.5) / len(drawn)).max()
    assert distance < 1.63 / np.sqrt(len(drawn)), "Kolmogorov and Smirnov's bound of 1 %"


@pytest.mark.parametrize(
    "shares",
    [
        {},
        {"a": 0.1},
        {"a": 1.0},
        {"a": 0.0},
        {"a": 0.1, "b": 0.25, "c": 0.65},
        {"a": 0.3, "b": 0.7},
    ],
    ids=str,
)
def test_arms_get_their_share(shares: dict[str, float]) -> None:
    members = _members(shares)
    for arm, share in {**shares, MAIN_ARM: 1 - sum(shares.values())}.items():
        deviation = np.sqrt(len(_USERS) * share * abs(1 - share))
        assert abs(len(members[arm]) - len(_USERS) * share) <= 4 * deviation, arm


@pytest.mark.parametrize("first", [{}, {"a": 0.05}], ids=["two arms", "three"])
@pytest.mark.parametrize(("grown", "other"), [("b", "c"), ("c", "b")])
def test_the_last_two_grow_at_mains_expense_alone(
    first: dict[str, float], grown: str, other: str
) -> None:
    shares = {**first, "b": 0.1, "c": 0.2}
    before, after = _members(shares), _members(shares | {grown: 0.7})
    assert before[grown] < after[grown]
    assert all(after[arm] == before[arm] for arm in (*first, other))


def test_any_arm_that_grows_keeps_its_users() -> None:
    shares = {"a": 0.1, "b": 0.1, "c": 0.2}
    assert _members(shares)["a"] < _members(shares | {"a": 0.4})["a"]


def test_another_salt_draws_anew() -> None:
    spring, autumn = (_members({"a": 0.5}, salt)["a"] for salt in ("spring", "autumn"))
    both = len(spring & autumn)
    assert abs(both - len(_USERS) / 4) <= 4 * np.sqrt(len(_USERS) * 3 / 16)
