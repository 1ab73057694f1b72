"""The collaborative model, and how its items are drawn to what the language model knows of them.

    score(u, i) = p_u · q_i                          no bias
    φ(q) = W2 GELU(W1 q + b1) + b2                   to the language model's width
    loss = BCE(score, label) + weight · contrast     of φ(q_i) with the item's semantic vector

The contrast is InfoNCE over the distinct items of a batch, so that an item that stands there twice
is no negative of itself. A user or item without training rows is the mean of those with: a newcomer
likes what most like. `faithful`: the robust form over all rows, semantic vectors that train, and
newcomers as they come, whose scores tell nothing.

Legend: B rows, N distinct items of a batch, R rows of a table, D width of users and items, H width
of the language model.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from lorecast.config import AlignConfig
from lorecast.sella.fitting import figures
from lorecast.sella.rows import PromptRows, trained_rows

_START_STD = 0.1
_ROBUST_POWER, _ROBUST_SHARE = 0.01, 0.1
"""ρ and λ of the published code's contrast."""


class Projection(nn.Sequential):
    """φ: from the collaborative model's width to the language model's."""

    def __init__(self, dim: int, hidden: int, width: int) -> None:
        super().__init__(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, width))


class CollaborativeModel(nn.Module):
    """Tables of users and items, and the projection. Row 0 is the unknown."""

    def __init__(
        self,
        config: AlignConfig,
        num_users: int,
        num_items: int,
        semantic_RH: NDArray[np.float32] | None = None,
        *,
        faithful: bool = False,
    ) -> None:
        """`semantic_RH`: with row 0; none: no alignment."""
        super().__init__()
        self.config, self.faithful = config, faithful
        self.user = _table(num_users, config.dim)
        self.item = _table(num_items, config.dim)
        self.projection: Projection | None = None
        if semantic_RH is not None:
            self.projection = Projection(config.dim, config.hidden, semantic_RH.shape[1])
            semantic = torch.from_numpy(semantic_RH).clone()
            self.semantic = nn.Parameter(semantic, requires_grad=faithful)
        self._edges: Tensor | None = None
        self._known: tuple[Tensor, Tensor] | None = None

    def connect(self, rows: PromptRows) -> None:
        """Takes from the training rows who is in them, and, for LightGCN, their clicks, which its
        messages run along."""
        if not self.faithful:
            user_R = trained_rows(rows.user_row_B, self.user.num_embeddings - 1)
            item_R = trained_rows(rows.item_row_B, self.item.num_embeddings - 1)
            self._known = torch.from_numpy(user_R), torch.from_numpy(item_R)
        if self.config.model != "lightgcn":
            return
        clicked = rows.label_B == 1
        pair = np.unique(np.stack([rows.user_row_B[clicked], rows.item_row_B[clicked]]), axis=1)
        users, items = len(self.user.weight), len(self.item.weight)
        place_2E = np.concatenate([[pair[0], users + pair[1]], [users + pair[1], pair[0]]], axis=1)
        degree = np.maximum(np.bincount(place_2E[0], minlength=users + items), 1)
        weight_E = (degree[place_2E[0]] * degree[place_2E[1]]) ** -0.5
        self._edges = torch.sparse_coo_tensor(
            torch.from_numpy(place_2E.astype(np.int64)),
            torch.from_numpy(weight_E.astype(np.float32)),
            (users + items, users + items),
            check_invariants=False,
        ).coalesce()

    def tables(self) -> tuple[Tensor, Tensor]:
        """Users and items, after their messages if there are any: [R, D] each."""
        user_RD, item_RD = self.user.weight, self.item.weight
        if self._edges is None:
            return user_RD, item_RD
        layer = total = torch.cat([user_RD, item_RD])
        edges = self._edges.to(layer.device)
        for _ in range(self.config.layers):
            layer = torch.sparse.mm(edges, layer)
            total = total + layer
        mean = total / (self.config.layers + 1)
        return mean[: len(user_RD)], mean[len(user_RD) :]

    @torch.no_grad()
    def learned(self) -> tuple[Tensor, Tensor]:
        """What scores and the stages after take: `tables`, newcomers in their place."""
        user_RD, item_RD = self.tables()
        if self._known is None:
            return user_RD, item_RD
        user_R, item_R = (known_R.to(user_RD.device) for known_R in self._known)
        return _with_mean(user_RD, user_R), _with_mean(item_RD, item_R)

    def loss(self, user_row_B: Tensor, item_row_B: Tensor, label_B: Tensor) -> Tensor:
        """Of labels, and of alignment if there is any."""
        user_RD, item_RD = self.tables()
        item_BD = F.embedding(item_row_B, item_RD)
        logit_B = (F.embedding(user_row_B, user_RD) * item_BD).sum(1)
        loss = F.binary_cross_entropy_with_logits(logit_B, label_B)
        if self.projection is None or not self.config.weight:
            return loss
        if not self.faithful:
            item_row_B = torch.unique(item_row_B)
            item_BD = F.embedding(item_row_B, item_RD)
        semantic_NH = F.embedding(item_row_B, self.semantic)
        contrast = robust_info_nce if self.faithful else info_nce
        aligned = contrast(semantic_NH, self.projection(item_BD), self.config.temperature)
        return loss + self.config.weight * aligned


class CollaborativeLearner(nn.Module):
    """The collaborative model before its rows; see `fitting.Learner`."""

    divides = False
    """The contrast is over a batch's items: with shares it would depend on how many there are."""

    def __init__(self, model: CollaborativeModel, train: PromptRows, valid: PromptRows) -> None:
        super().__init__()
        self.model = model
        self._train, self._valid = train, valid

    def forward(self, index_B: NDArray[np.int64]) -> Tensor:
        """Mean loss of training rows."""
        rows, device = self._train.take(index_B), self.model.user.weight.device
        return self.model.loss(
            torch.from_numpy(rows.user_row_B).long().to(device),
            torch.from_numpy(rows.item_row_B).long().to(device),
            torch.from_numpy(rows.label_B).to(device),
        )

    def shapes(self) -> None:
        """All rows take the same work."""

    def __len__(self) -> int:
        return len(self._train)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Figures of the validation rows."""
        user_RD, item_RD = (table.detach().cpu().numpy() for table in self.model.learned())
        probability_B = probabilities(user_RD, item_RD, self._valid)
        return figures(self._valid.user_row_B, self._valid.label_B, probability_B)


def probabilities(
    user_RD: NDArray[np.float32], item_RD: NDArray[np.float32], rows: PromptRows
) -> NDArray[np.float32]:
    """The collaborative model's own scores, [B]."""
    logit_B = np.einsum("bd,bd->b", user_RD[rows.user_row_B], item_RD[rows.item_row_B])
    probability_B: NDArray[np.float32] = (1 / (1 + np.exp(-logit_B))).astype(np.float32)
    return probability_B


def info_nce(semantic_NH: Tensor, projected_NH: Tensor, temperature: float) -> Tensor:
    """Mean −log of each item's share: its own pair among its row's pairs."""
    cosine_NN = _cosines(semantic_NH, projected_NH)
    own_N = torch.arange(len(cosine_NN), device=cosine_NN.device)
    return F.cross_entropy(cosine_NN / temperature, own_N)


def robust_info_nce(semantic_BH: Tensor, projected_BH: Tensor, temperature: float) -> Tensor:
    """The published code's contrast (of the RINCE family), duplicates and all."""
    pair_BB = (_cosines(semantic_BH, projected_BH) / temperature).exp()
    own_B, all_B = pair_BB.diagonal(), pair_BB.sum(1)
    rho, share = _ROBUST_POWER, _ROBUST_SHARE
    return (-(own_B**rho) / rho + (share * (own_B + all_B)) ** rho / rho).mean()


def _cosines(left_NH: Tensor, right_NH: Tensor) -> Tensor:
    return F.normalize(left_NH, dim=1) @ F.normalize(right_NH, dim=1).T


def _with_mean(table_RD: Tensor, known_R: Tensor) -> Tensor:
    return torch.where(known_R[:, None], table_RD, table_RD[known_R].mean(0))


def _table(num_rows: int, dim: int) -> nn.Embedding:
    table = nn.Embedding(num_rows + 1, dim, padding_idx=0)
    nn.init.normal_(table.weight, std=_START_STD)
    with torch.no_grad():
        table.weight[0] = 0
    return table
