"""Synthetic clicks with a known answer: a user clicks what matches a taste only knowledge tells.

Every item has one of a few kinds, every user a taste for one of them; nothing else decides a click,
and neither ids nor histories give it away to users never seen in training.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from lorecast.config import Side
from lorecast.data.batches import Samples
from lorecast.data.dataset import FeatureSchema
from lorecast.models.feature_tables import SideFeatures
from lorecast.models.inputs import History
from lorecast.models.knowledge import Chunk, KnowledgeShape

NUM_ITEMS, NUM_USERS, KINDS, DIM, HISTORY = 400, 600, 4, 16, 4
SCHEMA = FeatureSchema(
    item_features={"genre": 5},
    user_features={"region": 3},
    num_items=NUM_ITEMS,
    num_users=NUM_USERS,
    num_rating_levels=5,
)
SHAPE = KnowledgeShape(
    dim=DIM,
    item_chunks=(Chunk("facts", "kind"), Chunk("facts", "noise"), Chunk("review", "noise")),
    user_chunks=(Chunk("taste", "kind"),),
)


@dataclass(frozen=True)
class Vectors:
    """A store of vectors in memory; see `models.knowledge.ChunkVectors`."""

    arrays: dict[Side, NDArray[np.float16]]
    masks: dict[Side, NDArray[np.bool_]]
    certainties: dict[Side, NDArray[np.float16]] = field(default_factory=dict)

    def vectors(self, side: Side) -> NDArray[np.float16]:
        return self.arrays[side]

    def mask(self, side: Side) -> NDArray[np.bool_]:
        return self.masks[side]

    def certainty(self, side: Side) -> NDArray[np.float16] | None:
        return self.certainties.get(side)

    def shuffled(self, rng: np.random.Generator) -> "Vectors":
        """Every entity gets the texts of another."""
        order = {side: 1 + rng.permutation(len(a) - 1) for side, a in self.arrays.items()}
        order = {side: np.concatenate([[0], rows]) for side, rows in order.items()}

        def reordered(arrays: dict[Side, NDArray[Any]]) -> dict[Side, NDArray[Any]]:
            return {side: array[order[side]] for side, array in arrays.items()}

        return Vectors(*map(reordered, (self.arrays, self.masks, self.certainties)))


def history(steps_BLME: Tensor, mask_BL: Tensor) -> History:
    """A history with these steps; padded ones are zeros."""
    B, L, M, E = steps_BLME.shape
    real = mask_BL[:, :, None, None]
    item_UK = (steps_BLME[:, :, : M - 1] * real).reshape(B * L, (M - 1) * E)
    rating_RE = (steps_BLME[:, :, M - 1] * real[:, :, 0]).reshape(B * L, E)
    place_BL = 1 + torch.arange(B * L).view(B, L)  # place 0 holds zeros
    return History(
        F.pad(item_UK, (0, 0, 1, 0)), place_BL, F.pad(rating_RE, (0, 0, 1, 0)), place_BL, mask_BL
    )


def codes(rng: np.random.Generator) -> tuple[SideFeatures, SideFeatures]:
    """Features of items and users, one category each; row 0 unknown."""
    item = rng.integers(1, 6, (NUM_ITEMS + 1, 1)).astype(np.int32)
    user = rng.integers(1, 4, (NUM_USERS + 1, 1)).astype(np.int32)
    item[0] = user[0] = 0
    return plain(item), plain(user)


def plain(codes: NDArray[np.int32]) -> SideFeatures:
    """Features with one value each."""
    return SideFeatures(codes, {}, np.zeros((len(codes), 0), np.float32))


def world(rng: np.random.Generator, num_samples: int) -> tuple[Samples, Vectors]:
    """Samples in random user order, and the knowledge that tells kinds and tastes."""
    kind = rng.integers(KINDS, size=NUM_ITEMS + 1)
    taste = rng.integers(KINDS, size=NUM_USERS + 1)
    user = rng.integers(1, NUM_USERS + 1, num_samples).astype(np.int32)
    item = rng.integers(1, NUM_ITEMS + 1, num_samples).astype(np.int32)
    chance = np.where(kind[item] == taste[user], 0.9, 0.1)
    samples = Samples(
        user_row_B=user,
        item_row_B=item,
        label_B=(rng.random(num_samples) < chance).astype(np.int8),
        timestamp_B=np.arange(num_samples),
        position_B=np.arange(num_samples, dtype=np.int32),
        history_item_BL=rng.integers(0, NUM_ITEMS + 1, (num_samples, HISTORY)).astype(np.int32),
        history_rating_BL=rng.integers(1, 6, (num_samples, HISTORY)).astype(np.int8),
    )
    meaning = rng.normal(size=(KINDS, DIM))
    arrays: dict[Side, NDArray[np.float16]] = {
        "item": rng.normal(size=(NUM_ITEMS + 1, 3, DIM)).astype(np.float16),
        "user": meaning[taste][:, None].astype(np.float16),
    }
    arrays["item"][:, 0] = meaning[kind]
    masks: dict[Side, NDArray[np.bool_]] = {
        side: np.ones(array.shape[:2], bool) for side, array in arrays.items()
    }
    certain = np.random.default_rng(1)
    certainties: dict[Side, NDArray[np.float16]] = {
        side: certain.normal(size=mask.shape).astype(np.float16) for side, mask in masks.items()
    }
    for side in arrays:
        arrays[side][0], masks[side][0], certainties[side][0] = 0, False, 0
    return samples, Vectors(arrays, masks, certainties)


def parts(samples: Samples) -> tuple[Samples, Samples, Samples]:
    """Train, valid and test by user: 60, 20 and 20 per cent of the users."""
    ends = np.array([NUM_USERS * 6 // 10, NUM_USERS * 8 // 10])
    part = np.searchsorted(ends, samples.user_row_B, "left")
    first, second, third = (samples.take(np.flatnonzero(part == n)) for n in range(3))
    return first, second, third
