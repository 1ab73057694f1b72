"""Processes that train together: whose rows are whose, and what all of them must agree on.

Where torch.distributed is not initialised there is one process, and nothing is sent. A share is
contiguous: rows of a prefix stand together, and are read by one process.

Legend: B rows of a batch, V rows to score.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed


@dataclass(frozen=True)
class Workers:
    """How many processes there are, and which of them this one is."""

    count: int = 1
    rank: int = 0

    @classmethod
    def current(cls) -> Self:
        if not distributed.is_initialized():
            return cls()
        return cls(distributed.get_world_size(), distributed.get_rank())

    def share(self, index_B: NDArray[np.int64]) -> NDArray[np.int64]:
        """This process's rows of a batch; none if there are fewer rows than processes."""
        return np.array_split(index_B, self.count)[self.rank]

    def mean(self, value: float) -> float:
        """Of all processes' values."""
        if self.count == 1:
            return value
        total = _sent(torch.tensor(value, dtype=torch.float64))
        distributed.all_reduce(total)
        return float(total) / self.count

    def agreed(self, figures: Mapping[str, float]) -> dict[str, float]:
        """Rank 0's, in all processes, so that all decide alike."""
        values = _sent(torch.tensor(list(figures.values()), dtype=torch.float64))
        if self.count > 1:
            distributed.broadcast(values, src=0)
        return dict(zip(figures, values.tolist(), strict=True))

    def scored(
        self,
        group_V: NDArray[np.integer],
        score: Callable[[NDArray[np.int64]], NDArray[np.float32]],
    ) -> NDArray[np.float32]:
        """Scores of all rows, in all processes; `score` works out those of a process's share.

        Rows of a group stand together. Shares are of one size, as gathering wants them.
        """
        if self.count == 1:
            return score(np.arange(len(group_V)))
        place_V = np.argsort(group_V, kind="stable")
        size = -(-len(place_V) // self.count)
        place_WV = np.resize(place_V, (self.count, size))
        own = _sent(torch.from_numpy(score(place_WV[self.rank])))
        gathered = [torch.empty_like(own) for _ in range(self.count)]
        distributed.all_gather(gathered, own)
        score_V = np.empty(len(group_V), np.float32)
        score_V[place_WV.ravel()] = torch.cat(gathered).cpu().numpy()
        return score_V


def _sent(value: Tensor) -> Tensor:
    """Where the processes' network can take it."""
    nccl = distributed.is_initialized() and distributed.get_backend() == "nccl"
    return value.cuda() if nccl else value
