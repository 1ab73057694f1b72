"""Holds back knowledge that may have seen what is to be predicted."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

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
