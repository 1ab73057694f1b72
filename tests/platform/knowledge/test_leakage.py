"""A planted leak is found and named."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lorecast.data.dataset import Dataset
from lorecast.data.layout import USERS
from lorecast.errors import LeakageError
from lorecast.knowledge.leakage import NO_KNOWLEDGE, UNKNOWN_END, check_no_leak, check_prompts

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


def plant(dataset: Dataset, change: Callable[[list[int]], list[int]]) -> None:
    """Changes what the prompt of the tenth user shows."""
    users = pq.read_table(dataset.path / USERS)
    shown = users["prompt_item_rows"].to_pylist()
    shown[9] = change(shown[9])
    place = users.column_names.index("prompt_item_rows")
    field = users.schema.field(place)
    changed = users.set_column(place, field, pa.array(shown, field.type))
    pq.write_table(changed, dataset.path / USERS)


@pytest.mark.invariant
def test_prompts_show_the_users_own_past(make_tiny_dataset: Callable[..., Dataset]) -> None:
    check_prompts(make_tiny_dataset())


@pytest.mark.invariant
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: [*rows, 17], "'u10' would show 7 interactions, and its cut-off allows 6"),
        (lambda rows: [*rows[:-1], 41], "'u10' would show an item at position 5"),
        (lambda rows: [*rows[:-3], 41, *rows[-2:]], "'u10' would show an item at position 3"),
    ],
)
def test_a_later_click_in_a_prompt_is_named(
    make_tiny_dataset: Callable[..., Dataset],
    change: Callable[[list[int]], list[int]],
    said: str,
) -> None:
    dataset = make_tiny_dataset(seed=5)
    plant(dataset, change)
    with pytest.raises(LeakageError, match=said):
        check_prompts(dataset)


@pytest.mark.invariant
def test_given_histories_are_not_held_against_the_prompts(
    make_tiny_dataset: Callable[..., Dataset],
) -> None:
    dataset = replace(make_tiny_dataset(seed=5), rates_histories=False)
    plant(dataset, lambda rows: [*rows[:-1], 41])
    check_prompts(dataset)
    plant(dataset, lambda rows: [*rows, 17])
    with pytest.raises(LeakageError, match="'u10' would show 7 interactions"):
        check_prompts(dataset)
