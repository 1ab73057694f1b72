"""What is true in the world, for tests and audits. No model ever sees it."""

from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lorecast.world.catalogue import LIKE_ABOVE, World
from lorecast.world.vocabulary import HIDDEN_FACTORS

HISTORY_SHOWN: Final = 10
"""Titles in a user's prompt at most; the language model was trained on lists up to this length."""


def true_preferences(world: World, factor: str, liked: pa.ListArray) -> pa.ListArray:
    """The right answers to "what does this viewer prefer" for lists of liked titles.

    Each entry holds the values that occur most often among the titles: several if tied, none if
    nothing was liked. Raises ValueError for a title that is not in the world.
    """
    values = HIDDEN_FACTORS[factor].values
    film = pc.index_in(liked.flatten(), value_set=world.item_truth["title"].combine_chunks())
    if film.null_count:
        unknown = liked.flatten().filter(pc.is_null(film))[0].as_py()
        raise ValueError(f"no film {unknown!r} in this world")
    value_of_film = pc.index_in(world.item_truth[factor].combine_chunks(), pa.array(values))
    counts = np.zeros((len(liked), len(values)), np.int64)
    viewer = pc.list_parent_indices(liked).to_numpy(zero_copy_only=False)
    np.add.at(counts, (viewer, value_of_film.take(film).to_numpy(zero_copy_only=False)), 1)
    most = (counts > 0) & (counts == counts.max(axis=1, keepdims=True))
    offsets = np.concatenate([[0], most.sum(axis=1).cumsum()])
    return pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()), pa.array(np.asarray(values)[np.nonzero(most)[1]])
    )


def shown_histories(world: World, num_shown: int = HISTORY_SHOWN) -> pa.Table:
    """What the prompts about the users show: user_id, liked and disliked (lists of titles).

    A user's first min(ceil(n / 2), 30) of n interactions may be seen by prompts (the rest becomes
    samples); the last `num_shown` of those are shown, oldest first.
    """
    table = world.interactions.sort_by([("user_id", "ascending"), ("timestamp", "ascending")])
    user = pc.index_in(table["user_id"], world.users["user_id"].combine_chunks()).to_numpy()
    num_rated = np.bincount(user, minlength=len(world.users))
    place = np.arange(user.size) - (num_rated.cumsum() - num_rated)[user]
    num_seen = np.minimum((num_rated + 1) // 2, 30)
    shown = (place < num_seen[user]) & (place >= (num_seen - num_shown)[user])

    film = pc.index_in(table["item_id"], world.items["item_id"].combine_chunks())
    title = world.items["title"].combine_chunks().take(film.combine_chunks())
    is_like = table["rating"].to_numpy() > LIKE_ABOVE

    def titles(chosen: np.ndarray) -> pa.ListArray:
        counts = np.bincount(user[chosen], minlength=len(world.users))
        offsets = pa.array(np.concatenate([[0], counts.cumsum()]), pa.int32())
        return pa.ListArray.from_arrays(offsets, title.filter(pa.array(chosen)))

    return pa.table(
        {
            "user_id": world.users["user_id"],
            "liked": titles(shown & is_like),
            "disliked": titles(shown & ~is_like),
        }
    )
