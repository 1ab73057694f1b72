"""A planted leak is found and named."""

import numpy as np
import pytest

from lorecast.errors import LeakageError
from lorecast.knowledge.leakage import NO_KNOWLEDGE, UNKNOWN_END, check_no_leak

USER = np.array([1, 1, 2, 3])
POSITION = np.array([5, 6, 2, 0])
IDS = ("ann", "bob", "cy")


@pytest.mark.invariant
def test_samples_after_the_cut_off_pass() -> None:
    check_no_leak(USER, POSITION, np.array([NO_KNOWLEDGE, 4, 1, NO_KNOWLEDGE]))


@pytest.mark.invariant
def test_a_sample_that_the_text_saw_is_named() -> None:
    with pytest.raises(LeakageError, match=r"1 users .*'bob'.*up to position 2.*at position 2"):
        check_no_leak(USER, POSITION, np.array([NO_KNOWLEDGE, 4, 2, NO_KNOWLEDGE]), IDS)


@pytest.mark.invariant
def test_an_unknown_cut_off_is_refused_with_the_fix() -> None:
    ends = np.array([NO_KNOWLEDGE, 4, UNKNOWN_END, UNKNOWN_END])
    with pytest.raises(LeakageError, match=r"2 users .*user row 2.*knowledge\.fields\.history_end"):
        check_no_leak(USER, POSITION, ends)
