"""Scores of users and items from a folder that `saved` wrote; without Ray or the dataset.

Ids are strings as in the tables; integers mean their decimal text. An unknown user or item takes
row 0, which training has met: it is scored by what else the prompt says. A user without a liked
film gets the prompt's wording for that.

Legend: B pairs, N candidates of one user, M titles shown.
"""

from collections.abc import Sequence
from itertools import repeat
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from lorecast.config import Side
from lorecast.sella import saved
from lorecast.sella.rows import PromptRows, liked_from, liked_levels, newest
from lorecast.sella.yes_no import YesNoModel

Id = str | int
History = Sequence[tuple[Id, float | None]]
"""(item id, rating), oldest first; without a rating it was liked."""


class SellaScorer:
    """Probability of Yes for users and items."""

    def __init__(
        self,
        model: YesNoModel,
        card: saved.Card,
        users: pa.Table,
        items: pa.Table,
        batch_size: int = 256,
    ) -> None:
        self.model, self.card, self._batch_size = model, card, batch_size
        self._rows: dict[Side, dict[str, int]] = {
            "user": {id_: row for row, id_ in enumerate(users["id"].to_pylist(), start=1)},
            "item": {id_: row for row, id_ in enumerate(items["id"].to_pylist(), start=1)},
        }
        recent_UL, level_UL = (
            np.stack(users[name].combine_chunks().to_numpy(zero_copy_only=False))
            for name in ("recent_item_rows", "recent_ratings")
        )
        liked_UL = recent_UL > 0
        if card.rates_histories:
            liked_UL &= liked_levels(card.rating_levels, card.positive_rating)[level_UL]
        shown = card.prompt.history_titles
        nothing_1M = np.zeros((1, shown), np.int32)
        self._liked_UM = np.concatenate([nothing_1M, newest(recent_UL, liked_UL, shown)])

    @classmethod
    def load(
        cls, folder: str | Path, device: torch.device | None = None, batch_size: int = 256
    ) -> "SellaScorer":
        """Raises ArtifactError or TrainingError if the model cannot be built."""
        folder = Path(folder)
        model = saved.load(folder, device)
        users, items = (pq.read_table(folder / f"{side}s.parquet") for side in ("user", "item"))
        return cls(model, saved.read_card(folder), users, items, batch_size)

    def score(
        self, user_id: Id, item_ids: Sequence[Id], history: History | None = None
    ) -> NDArray[np.float32]:
        """Of one user's candidates, in order, [N]; `history` replaces the user's recent one."""
        (user_row,) = self.rows("user", [user_id])
        liked_1M = self._liked_UM[user_row : user_row + 1]
        if history is not None:
            liked_1M = self._newest_liked(history)
        count = len(item_ids)
        return self.score_rows(
            PromptRows(
                user_row_B=np.full(count, user_row, np.int32),
                item_row_B=self.rows("item", item_ids),
                liked_BM=liked_1M.repeat(count, axis=0),
                label_B=np.zeros(count, np.float32),
            )
        )

    def score_rows(self, rows: PromptRows) -> NDArray[np.float32]:
        """Of rows by number, in their order, [B]."""
        return self.model.probabilities(rows, self._batch_size)

    def rows(self, side: Side, ids: Sequence[Id]) -> NDArray[np.int32]:
        """The rows of ids, 0 where unknown."""
        return np.fromiter(map(self._rows[side].get, map(str, ids), repeat(0)), np.int32, len(ids))

    def _newest_liked(self, history: History) -> NDArray[np.int32]:
        bound = liked_from(self.card.rating_levels, self.card.positive_rating)
        liked = [id_ for id_, r in history if r is None or r >= bound]
        row_1V = self.rows("item", liked)[None]
        return newest(row_1V, row_1V > 0, self.card.prompt.history_titles)
