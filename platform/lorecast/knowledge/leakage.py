"""Holds back knowledge that may have seen what is to be predicted."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lorecast.data.dataset import Dataset
from lorecast.data.layout import SPLITS, USERS, samples_folder
from lorecast.errors import LeakageError

NO_KNOWLEDGE: Final = -1
"""`history_end` of a user without texts: nothing was seen."""
UNKNOWN_END: Final = 2**31 - 1
"""`history_end` of a user whose texts do not say what their writer saw."""


def check_no_leak(
    user_row_B: NDArray[np.integer],
    position_B: NDArray[np.integer],
    user_history_end: NDArray[np.integer],
    user_ids: Sequence[str] | None = None,
) -> None:
    """Raises LeakageError if a sample lies within what its own user's knowledge has seen.

    `user_history_end` is by user row: the position of the last interaction the texts saw,
    NO_KNOWLEDGE or UNKNOWN_END. `user_ids[row - 1]` names a user in the message.
    """
    end_B = user_history_end[user_row_B]
    leaks_B = position_B <= end_B
    if not leaks_B.any():
        return
    users = np.unique(user_row_B[leaks_B])
    first = int(np.flatnonzero(leaks_B)[0])
    row, end = int(user_row_B[first]), int(end_B[first])
    name = f"user row {row}" if user_ids is None else f"user {user_ids[row - 1]!r}"
    if end == UNKNOWN_END:
        raise LeakageError(
            f"the knowledge about {users.size:,} users (for example {name}) does not say which "
            "interactions its writer saw: name that column in knowledge.fields.history_end, or "
            "drop the field"
        )
    raise LeakageError(
        f"the knowledge about {users.size:,} users has seen samples that are to be predicted (for "
        f"example {name}: the texts know interactions up to position {end}, and a sample is at "
        f"position {int(position_B[first])}): write the texts from earlier interactions, or "
        "drop the field"
    )


def check_prompts(dataset: Dataset) -> None:
    """Raises LeakageError if what a user's prompt would show is not the user's own past.

    The interactions up to the cut-off are compared, place by place, with the histories of the
    samples that follow, which are all there is to compare with. Histories that a column gives need
    not be the user's rows: then the cut-off alone is checked.
    """
    columns = ["id", "history_end", "prompt_item_rows"]
    users = pq.read_table(dataset.path / USERS, columns=columns)
    end_U = users["history_end"].to_numpy()
    shown = users["prompt_item_rows"].combine_chunks()
    start_U = shown.offsets.to_numpy()
    shown_M = shown.flatten().to_numpy()
    longer = np.flatnonzero(np.diff(start_U) != end_U + 1)
    if longer.size:
        user = int(longer[0])
        raise LeakageError(
            f"the prompt of user {users['id'][user].as_py()!r} would show "
            f"{start_U[user + 1] - start_U[user]} interactions, and its cut-off allows "
            f"{end_U[user] + 1}: run `lorecast prepare` again"
        )
    if not dataset.rates_histories:
        return
    length = dataset.history_length
    for split in SPLITS:
        for part in sorted(samples_folder(dataset.path, split).glob("part-*.parquet")):
            with pq.ParquetFile(part, pre_buffer=False) as samples:
                names = ["user_row", "position", "history_item_rows"]
                for batch in samples.iter_batches(columns=names):
                    user_B = batch["user_row"].to_numpy() - 1
                    position_BL = batch["position"].to_numpy()[:, None] - np.arange(length, 0, -1)
                    seen_BL = batch["history_item_rows"].flatten().to_numpy().reshape(-1, length)
                    known_BL = (position_BL >= 0) & (position_BL <= end_U[user_B, None])
                    sample, place = np.nonzero(known_BL)
                    position = position_BL[sample, place]
                    shown_there = shown_M[start_U[user_B[sample]] + position]
                    wrong = np.flatnonzero(shown_there != seen_BL[sample, place])
                    if wrong.size:
                        user = int(user_B[sample[wrong[0]]])
                        raise LeakageError(
                            f"the prompt of user {users['id'][user].as_py()!r} would show an item "
                            f"at position {position[wrong[0]]} that the user did not meet there: "
                            "it may be one that is to be predicted; run `lorecast prepare` again"
                        )
