"""What makes users or items alike: vectors from texts or from who rated what (REKI; papers B.12).

Only interactions up to each user's cut-off are read: those that prompts may show.
Legend: U users, I items, N entities of one side, M visible interactions, D width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from lorecast.config import CollectiveConfig, Side
from lorecast.data.dataset import Dataset
from lorecast.data.layout import USERS

Embed = Callable[[pa.Array], NDArray[np.floating]]
"""Texts to vectors: [N, D]."""

_DISLIKED: Final = -0.5
"""Weight of a title that was not liked, beside 1 for one that was."""
_SPREAD: Final = 0.5
"""Weight of an item whose vector was spread from others, beside 1 for one that was asked about."""
_PROFILE: Final = 0.3
"""Length of the profile's part of a user vector, beside 1 for the titles' part."""


@dataclass(frozen=True, kw_only=True)
class Visible:
    """The interactions that prompts may show, of all users."""

    user_M: NDArray[np.int64]
    """User row - 1."""
    item_M: NDArray[np.int64]
    """Item row - 1."""
    is_liked_M: NDArray[np.bool_]
    shape: tuple[int, int]
    """Users, items."""

    @classmethod
    def of(cls, dataset: Dataset, liked_from: float) -> "Visible":
        columns = ["prompt_item_rows", "prompt_ratings"]
        users = pq.read_table(dataset.path / USERS, columns=columns)
        items, codes = (users[name].combine_chunks() for name in columns)
        levels = np.asarray(dataset.rating_levels)
        return cls(
            user_M=pc.list_parent_indices(items).to_numpy(),
            item_M=items.flatten().to_numpy() - 1,
            is_liked_M=levels[codes.flatten().to_numpy() - 1] >= liked_from,
            shape=(users.num_rows, dataset.schema.num_items),
        )

    def matrix(self, weight_M: NDArray[np.floating]) -> csr_matrix:
        """Users × items; several weights of one pair add up."""
        return csr_matrix((weight_M, (self.user_M, self.item_M)), shape=self.shape)

    def taste(self) -> csr_matrix:
        """Users × items: 1 for a liked title, -0.5 for another; each user's row of length 1."""
        weights = self.matrix(np.where(self.is_liked_M, 1.0, _DISLIKED))
        length_U = np.sqrt(np.asarray(weights.multiply(weights).sum(axis=1)).ravel())
        return weights.multiply(1 / np.maximum(length_U, 1e-12)[:, None]).tocsr()

    def clicks(self, side: Side) -> NDArray[np.int64]:
        """How often each entity of a side occurs."""
        rows = self.user_M if side == "user" else self.item_M
        return np.bincount(rows, minlength=self.shape[0 if side == "user" else 1])


@dataclass(frozen=True, kw_only=True)
class Basis:
    """Item vectors from which users and new items are represented: ids and [I, D]."""

    ids: pa.Array
    vectors_ID: NDArray[np.float32]

    def of_items(self, ids: pa.Array) -> NDArray[np.float32]:
        """The vectors of these items, 0 for those it does not know."""
        place = pc.fill_null(pc.index_in(ids, value_set=self.ids), len(self.ids)).to_numpy()
        vectors: NDArray[np.float32] = np.vstack(
            (self.vectors_ID, np.zeros_like(self.vectors_ID[:1]))
        )[place]
        return vectors


def click_basis(visible: Visible, ids: pa.Array, config: CollectiveConfig) -> Basis:
    """Factorizes who rated what (truncated SVD)."""
    from sklearn.decomposition import TruncatedSVD

    dim = min(config.dim, min(visible.shape) - 1)
    svd = TruncatedSVD(dim, random_state=config.seed).fit(visible.taste())
    return Basis(ids=ids, vectors_ID=svd.components_.T.astype(np.float32))


def knowledge_basis(
    visible: Visible,
    ids: pa.Array,
    item_S: NDArray[np.integer],
    vector_SD: NDArray[np.floating],
    dim: int,
) -> Basis:
    """Spreads what is known about some items along clicks to all others.

    `item_S`: the known items' rows - 1; `vector_SD`: their encoded texts. Users are what they
    liked, and an item that nobody was asked about is what its users are, at half the weight.
    """
    centred_SD = vector_SD - vector_SD.mean(axis=0)
    _, _, directions = np.linalg.svd(centred_SD, full_matrices=False)
    reduced_SD = _unit(centred_SD @ directions[: min(dim, len(directions))].T)
    known_ID = np.zeros((len(ids), reduced_SD.shape[1]), np.float32)
    known_ID[item_S] = reduced_SD
    taste = visible.taste()
    spread_ID = _unit(taste.T @ _unit(taste @ known_ID))
    is_known_I = np.isin(np.arange(len(ids)), item_S)[:, None]
    return Basis(ids=ids, vectors_ID=np.where(is_known_I, known_ID, _SPREAD * spread_ID))


def from_clicks(
    dataset: Dataset, side: Side, visible: Visible, basis: Basis
) -> NDArray[np.float32]:
    """[N, D], rows of length 1: users by the titles they rated, items by the users who did."""
    taste = visible.taste()
    users = _unit(taste @ basis.of_items(dataset.items()["id"].combine_chunks()))
    return users if side == "user" else _unit(taste.T @ users)


def from_texts(dataset: Dataset, side: Side, visible: Visible, embed: Embed) -> NDArray[np.float32]:
    """[N, D], rows of length 1: items by title and text columns, users by the titles they rated
    and, with less weight, by their own text columns."""
    items = dataset.items()
    shown = [pc.fill_null(items[name], "") for name in ("title", *dataset.text_columns["item"])]
    of_items = _unit(embed(pc.binary_join_element_wise(*shown, ", ").combine_chunks()))
    if side == "item":
        return of_items
    columns = [_one_hot(dataset.users()[name]) for name in dataset.text_columns["user"]]
    profile = _unit(np.concatenate([np.zeros((visible.shape[0], 1)), *columns], axis=1))
    return _unit(np.hstack((_unit(visible.taste() @ of_items), _PROFILE * profile)))


def _one_hot(values: pa.ChunkedArray, most: int = 64) -> NDArray[np.float32]:
    counts = pc.value_counts(values.drop_null())
    frequent = counts.field("values").take(pc.sort_indices(counts.field("counts"))[::-1][:most])
    place = pc.index_in(values, value_set=frequent)
    encoded = np.zeros((len(values), len(frequent) + 1), np.float32)
    encoded[np.arange(len(values)), pc.fill_null(place, len(frequent)).to_numpy()] = 1
    return encoded[:, :-1]


def _unit(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: NDArray[np.float32] = (vectors / np.maximum(length, 1e-12)).astype(np.float32)
    return unit
