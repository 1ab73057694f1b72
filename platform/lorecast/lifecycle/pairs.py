"""Samples as a client would send them: ids, histories with ratings, contexts by name."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lorecast.data.batches import Samples
from lorecast.data.dataset import Dataset
from lorecast.lifecycle.scorer import Context, History, Id, Scorer, Scores

_BLOCK_ROWS = 2048
"""Rows handed to a scorer at once; bounds memory."""


@dataclass(frozen=True, kw_only=True)
class Requests:
    """Pairs to score, one entry each."""

    user_ids: Sequence[Id]
    item_ids: Sequence[Id]
    histories: Sequence[History]
    contexts: Sequence[Context]
    """What is known of each moment; a value that the dataset does not know is left out."""

    @classmethod
    def of(cls, dataset: Dataset, samples: Samples) -> "Requests":
        """The samples of this dataset."""
        users, items = (
            np.array([None, *table["id"].to_pylist()], object)
            for table in (dataset.users(), dataset.items())
        )
        levels = np.array([None, *dataset.rating_levels], object)
        histories = zip(
            items[samples.history_item_BL], levels[samples.history_rating_BL], strict=True
        )
        moments: list[dict[str, Id]] = [{} for _ in range(len(samples))]
        for name, code_B in zip(dataset.contexts, samples.context_BK.T, strict=True):
            values = dataset.contexts[name]
            for moment, code in zip(moments, code_B, strict=True):
                if code:
                    moment[name] = values[code - 1]
        return cls(
            user_ids=users[samples.user_row_B].tolist(),
            item_ids=items[samples.item_row_B].tolist(),
            histories=[
                [(item, level) for item, level in zip(*history, strict=True) if item is not None]
                for history in histories
            ],
            contexts=moments,
        )

    def without_context(self, name: str) -> "Requests":
        """The same requests, which do not say this about the moment."""
        kept = [{key: v for key, v in moment.items() if key != name} for moment in self.contexts]
        return replace(self, contexts=kept)

    def scores(self, scorer: Scorer) -> Scores:
        """Probabilities in order; the scorer is told only of contexts that it has."""
        names = set(scorer.context_names)
        known = [{key: v for key, v in moment.items() if key in names} for moment in self.contexts]
        blocks = [slice(start, start + _BLOCK_ROWS) for start in range(0, len(self), _BLOCK_ROWS)]
        scored: NDArray[np.float32] = np.concatenate(
            [
                scorer.score(
                    self.user_ids[block],
                    self.item_ids[block],
                    self.histories[block],
                    known[block],
                )
                for block in blocks
            ]
        )
        return scored

    def __len__(self) -> int:
        return len(self.user_ids)
