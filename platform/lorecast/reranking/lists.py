"""Lists to be ordered anew: a window of a user's interactions among random items.

A user's samples are cut, from the first one on, into windows of C in a row. The items of a window
keep their labels, and random other items with label 0 fill the list up to K (the setting of REKI's
predecessor KAR, arXiv 2306.10933). What is left over at a user's end makes no list, and neither
does a window that lies in two parts of the split.

All items of a list share the history before the window's first interaction, so no item knows the
answer about another one. A list comes in the order of a plain first ranker: clicks in the training
part, the list's own left out; equal ones as the seed deals them.

Shapes: B samples, W lists, C interactions a window, K items a list.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lorecast.config import RerankingConfig
from lorecast.data.batches import Samples, load_samples
from lorecast.data.dataset import Dataset
from lorecast.data.layout import SPLITS, Split
from lorecast.errors import TrainingError


@dataclass(frozen=True, kw_only=True)
class Lists:
    """Lists of one split, each in the first ranker's order."""

    first: Samples
    """The first interaction of each window, W in all: the user, the history and the moment of
    every item of the list."""
    item_row_WK: NDArray[np.int32]
    """0 pads, at the end: the catalogue has fewer items than a list has places."""
    label_WK: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.first)


def load_lists(dataset: Dataset, config: RerankingConfig) -> dict[Split, Lists]:
    """The lists of every part; the same ones for the same dataset and `config.seed`.

    Raises TrainingError if a part has no list with a click.
    """
    start_U = dataset.history_end() + 1
    clicks_I = np.zeros(0, np.int64)
    lists: dict[Split, Lists] = {}
    for part, split in enumerate(SPLITS):
        samples = load_samples(dataset, split)
        rng = np.random.default_rng([config.seed, part])
        if split == "train":
            clicked_B = samples.item_row_B[samples.label_B == 1]
            clicks_I = np.bincount(clicked_B, minlength=dataset.schema.num_items + 1)
        window_WC = windows(samples, start_U, config.clicked)
        made = fill(samples, window_WC, clicks_I, config, rng, counted=split == "train")
        if not made.label_WK.any():
            raise TrainingError(
                f"the {split} part has no list with a click: a list takes {config.clicked} "
                "samples of one user in a row, so lower reranking.clicked or give dataset.split "
                "more of it"
            )
        lists[split] = made
    return lists


def windows(samples: Samples, start_U: NDArray[np.integer], clicked: int) -> NDArray[np.intp]:
    """window_WC: places of the samples of each whole window.

    `start_U`: position of each user's first sample, by row. The samples of a part stand by user
    and position.
    """
    number_B = (samples.position_B - start_U[samples.user_row_B]) // clicked
    opens_B = np.ones(len(samples), np.bool_)
    opens_B[1:] = (np.diff(samples.user_row_B) != 0) | (np.diff(number_B) != 0)
    first_W = np.flatnonzero(opens_B)
    whole_W = np.diff(first_W, append=len(samples)) == clicked
    window_WC: NDArray[np.intp] = first_W[whole_W][:, None] + np.arange(clicked)
    return window_WC


def fill(
    samples: Samples,
    window_WC: NDArray[np.intp],
    clicks_I: NDArray[np.integer],
    config: RerankingConfig,
    rng: np.random.Generator,
    *,
    counted: bool,
) -> Lists:
    """One list a window. `clicks_I`: clicks by item row, from 0; `counted`: the windows' own are
    among them."""
    own_WC = samples.item_row_B[window_WC]
    others = config.list_length - config.clicked
    item_WK = np.hstack([own_WC, _others(own_WC, others, len(clicks_I) - 1, rng)])
    label_WK = np.zeros(item_WK.shape, np.int8)
    label_WK[:, : config.clicked] = samples.label_B[window_WC]
    popularity_WK = np.where(item_WK > 0, clicks_I[item_WK] - label_WK * counted, -1)
    order_WK = np.lexsort((rng.random(item_WK.shape), -popularity_WK), axis=1)
    return Lists(
        first=samples.take(window_WC[:, 0]),
        item_row_WK=np.take_along_axis(item_WK, order_WK, axis=1),
        label_WK=np.take_along_axis(label_WK, order_WK, axis=1),
    )


def _others(
    taken_WC: NDArray[np.int32], number: int, num_items: int, rng: np.random.Generator
) -> NDArray[np.int32]:
    """`number` different items a row that are not taken, each as likely; 0 where none is left.

    Draws a rank among the free items, and moves it past every taken one at or below it.
    """
    none = num_items + 1
    taken_WC = np.sort(taken_WC, axis=1)
    taken_WC[:, 1:][np.diff(taken_WC, axis=1) == 0] = none  # each counts once
    drawn = np.zeros((len(taken_WC), number), np.int32)
    for place in range(number):
        taken_WT = np.sort(np.hstack([taken_WC, np.where(drawn, drawn, none)]), axis=1)
        free_W = num_items - (taken_WT < none).sum(axis=1)
        item_W = 1 + np.floor(rng.random(len(drawn)) * free_W).astype(np.int32)
        for taken_W in taken_WT.T:
            item_W += item_W >= taken_W
        drawn[:, place] = np.where(free_W > 0, item_W, 0)
    return drawn
