"""The frozen slice: the rows that challenger and champion are compared on, the same every time.

Whole users are taken in the order of a digest of their ids, so the choice does not move with seeds,
runs or machines, and hardly when users join. The fingerprint covers content: ids, labels, moments.

Legend: B samples, R rows of a side's table.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from lorecast.artifacts import fingerprint
from lorecast.config import PromotionConfig, Side
from lorecast.data.batches import Samples, load_samples
from lorecast.data.dataset import Dataset
from lorecast.evaluation.slices import training_counts
from lorecast.lifecycle.pairs import Requests


@dataclass(frozen=True, kw_only=True, eq=False)
class FrozenSlice:
    """Rows of one part of a dataset."""

    dataset: Dataset
    split: Literal["valid", "test"]
    samples: Samples

    @classmethod
    def of(cls, dataset: Dataset, config: PromotionConfig) -> "FrozenSlice":
        """The rows that `promotion.split` and `promotion.rows` say."""
        part = load_samples(dataset, config.split)
        users, user_B, count_U = np.unique(part.user_row_B, return_inverse=True, return_counts=True)
        ids = dataset.users()["id"].to_pylist()
        digest_U = np.array([crc32(ids[row - 1].encode()) for row in users])
        order = np.lexsort((users, digest_U))
        # The first user always; further ones as long as they fit.
        fits = np.cumsum(count_U[order]) <= config.rows
        taken_U = np.zeros(len(users), bool)
        taken_U[order] = fits | (np.arange(len(users)) == 0)
        return cls(
            dataset=dataset,
            split=config.split,
            samples=part.take(np.flatnonzero(taken_U[user_B])),
        )

    def __len__(self) -> int:
        return len(self.samples)

    @cached_property
    def fingerprint(self) -> str:
        """Digest of what the rows say."""
        digests = [
            np.ascontiguousarray(column).tobytes().hex()
            for column in (
                self.samples.label_B,
                self.samples.position_B,
                self.samples.history_item_BL,
                self.samples.context_BK,
            )
        ]
        return fingerprint([self.dataset.fingerprint, self.split, self.pairs, *digests])

    @cached_property
    def requests(self) -> Requests:
        """The rows as a client would send them."""
        return Requests.of(self.dataset, self.samples)

    @property
    def pairs(self) -> list[list[str]]:
        """User ids and item ids, in order."""
        return [list(map(str, self.requests.user_ids)), list(map(str, self.requests.item_ids))]

    def ids(self, side: Side) -> list[str]:
        """Distinct users or items."""
        users, items = self.pairs
        return sorted(set(users if side == "user" else items))

    def cold(self, config: PromotionConfig) -> Mapping[Side, NDArray[np.bool_]]:
        """Rows whose item training hardly knows, and rows whose user has hardly a history, [B]."""
        count_R = training_counts(self.dataset)["item"]
        length_B = (self.samples.history_item_BL > 0).sum(1)
        return {
            "item": count_R[self.samples.item_row_B] <= config.cold_items,
            "user": length_B <= config.cold_users,
        }
