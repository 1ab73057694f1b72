"""What is true of the knowledge about the embedded world, answer by answer. For audits only."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lorecast.data.dataset import Dataset
from lorecast.knowledge.audit import TRUTH
from lorecast.world.accuracy import is_right
from lorecast.world.catalogue import World
from lorecast.world.truth import true_preferences
from lorecast.world.vocabulary import HIDDEN_FACTORS


def with_truth(
    table: pa.Table, world: World, dataset: Dataset, prompt_history: int, liked_from: float
) -> pa.Table:
    """`table` (of `rows.SCHEMA`) with the columns of `audit.TRUTH`.

    A film's answer is right if it names the film's value; a viewer's if it names a value that most
    of the liked titles shown in the prompt share, the last `prompt_history` before the cut-off
    rated `liked_from` or better. Only ok answers about hidden factors are judged.
    """
    film = pc.index_in(table["id"], value_set=world.item_truth["item_id"].combine_chunks())
    film = pc.if_else(pc.equal(table["side"], "item"), film, None).combine_chunks()
    quarter = world.item_truth["popularity_quarter"].take(film).cast(pa.int8())
    liked = _liked_titles(dataset, prompt_history, liked_from)
    is_ok = pc.equal(table["status"], "ok")
    right = np.zeros(table.num_rows, np.bool_)
    is_judged = np.zeros(table.num_rows, np.bool_)
    for side in ("item", "user"):
        for factor in HIDDEN_FACTORS:
            of_factor = pc.and_(pc.equal(table["side"], side), pc.equal(table["factor"], factor))
            lines = pa.array(np.flatnonzero(np.asarray(pc.and_(of_factor, is_ok))))
            if side == "item":
                lines = lines.filter(film.take(lines).is_valid())
                values = world.item_truth[factor].combine_chunks().take(film.take(lines))
                one_each = pa.array(np.arange(len(lines) + 1), pa.int32())
                accepted = pa.ListArray.from_arrays(one_each, values)
            else:
                viewer = pc.subtract(table["row"].combine_chunks().take(lines), 1)
                accepted = true_preferences(world, factor, liked.take(viewer))
            answers = table["text"].combine_chunks().take(lines)
            right[lines] = np.asarray(is_right(factor, answers, accepted))
            is_judged[lines] = True
    columns = (pa.array(right, mask=~is_judged), quarter)
    for field, values in zip(TRUTH, columns, strict=True):
        table = table.append_column(field, values)
    return table


def _liked_titles(dataset: Dataset, prompt_history: int, liked_from: float) -> pa.ListArray:
    """By user, in row order: the liked titles that the prompts show."""
    users = dataset.users()
    items, ratings = (
        users[name].combine_chunks() for name in ("prompt_item_rows", "prompt_ratings")
    )
    counts = np.asarray(pc.list_value_length(items), np.int64)
    user = np.asarray(pc.list_parent_indices(items), np.int64)
    place = np.arange(user.size) - (counts.cumsum() - counts)[user]
    level = np.asarray(dataset.rating_levels)[np.asarray(ratings.flatten(), np.int64) - 1]
    shown = (place >= (counts - prompt_history)[user]) & (level >= liked_from)
    title = dataset.items()["title"].combine_chunks()
    film = pc.subtract(items.flatten(), 1).filter(pa.array(shown))
    liked = np.bincount(user[shown], minlength=counts.size)
    offsets = pa.array(np.concatenate([[0], liked.cumsum()]), pa.int32())
    return pa.ListArray.from_arrays(offsets, title.take(film))
