from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from lorecast.data.batches import load_samples
from lorecast.data.dataset import Dataset, FeatureSchema
from lorecast.models.feature_tables import SideFeatures, feature_tables
from lorecast.models.features import FeatureEmbedding
from lorecast.models.inputs import Batch, Fields
from tests import planted

SCHEMA = FeatureSchema(
    item_features={"genre": 2, "studio": 3},
    user_features={"region": 2},
    num_items=4,
    num_users=2,
    num_rating_levels=5,
)
ITEM_CODES = np.array([[0, 0], [1, 3], [2, 1], [2, 0], [1, 2]], np.int32)
USER_CODES = np.array([[0], [2], [1]], np.int32)


def _features() -> FeatureEmbedding:
    features = FeatureEmbedding(SCHEMA, dim=8)
    features.attach(planted.plain(ITEM_CODES), planted.plain(USER_CODES))
    return features


def _batch(user: int, item: int, history: list[int], ratings: list[int]) -> Batch:
    rows = ([user], [item], [history], [ratings])
    return Batch(*(torch.tensor(row, dtype=torch.int32) for row in rows))


def _steps(fields: Fields) -> Tensor:
    """[B, L, M, E]."""
    return fields.history.steps().unflatten(2, (-1, 8))


def test_target_and_history_share_the_items_embeddings() -> None:
    fields = _features()(_batch(1, 2, [0, 2], [0, 4]))
    torch.testing.assert_close(fields.target_BNE[0], _steps(fields)[0, 1, :3])


def test_every_feature_has_rows_of_its_own() -> None:
    features = _features()
    fields = features(_batch(1, 1, [2, 3, 4, 1], [1, 2, 3, 5]))
    seen = torch.cat([_steps(fields).flatten(0, 2), fields.extra_BXE.flatten(0, 1)])
    # four items, two genres, the studios 1, 2 and 3, "unknown", four ratings, one region
    assert len(seen.unique(dim=0)) == 4 + 2 + 3 + 1 + 4 + 1
    assert len(features.table.weight) == 1 + 4 + 2 + 3 + 5 + 2


def test_unknown_and_padding_are_zero_and_stay_zero() -> None:
    features = _features()
    fields = features(_batch(0, 0, [0, 1], [0, 3]))
    for zero in (fields.target_BNE, _steps(fields)[:, 0], fields.extra_BXE):
        assert not zero.any()
    assert fields.history.mask_BL.tolist() == [[False, True]]
    (fields.target_BNE.sum() + _steps(fields).sum()).backward()
    assert features.table.weight.grad is not None
    assert not features.table.weight.grad[0].any()


def test_a_dataset_without_categories_works() -> None:
    schema = FeatureSchema(
        item_features={}, user_features={}, num_items=4, num_users=2, num_rating_levels=2
    )
    features = FeatureEmbedding(schema, dim=8)
    nothing = [planted.plain(np.zeros((rows, 0), np.int32)) for rows in (5, 3)]
    features.attach(*nothing)
    fields = features(_batch(1, 4, [1, 2], [1, 2]))
    assert fields.target_BNE.shape == (1, 1, 8)
    assert _steps(fields).shape == (1, 2, 2, 8)
    assert fields.extra_BXE.shape == (1, 0, 8)


def test_a_large_catalogue_is_embedded_as_a_small_one_is() -> None:
    """Of a small one all items are looked up, of a large one those of the batch."""
    features = _features()
    few, many = _batch(1, 2, [3], [4]), _batch(1, 2, [0, 0, 0, 0, 3], [0, 0, 0, 0, 4])
    alone, with_padding = features(few), features(many)
    assert len(alone.history.item_UK) < len(with_padding.history.item_UK)
    torch.testing.assert_close(alone.target_BNE, with_padding.target_BNE)
    torch.testing.assert_close(_steps(alone), _steps(with_padding)[:, 4:])


def test_constant_tables_are_no_weights() -> None:
    assert list(_features().state_dict()) == ["table.weight"]


RICH = FeatureSchema(
    item_features={"genre": 2},
    item_multi={"tags": 3, "cast": 4},
    item_numeric=("price", "length"),
    user_features={"region": 2},
    user_multi={"hobbies": 2},
    user_numeric=("age",),
    context={"device": 3, "hour": 2},
    num_items=4,
    num_users=2,
    num_rating_levels=5,
)
TAGS = np.array([[0, 0], [1, 3], [2, 0], [0, 0], [3, 1]], np.int32)
CAST = np.array([[0, 0, 0], [4, 2, 1], [0, 0, 0], [3, 0, 0], [2, 1, 0]], np.int32)
NUMBERS = np.array([[0, 0], [1.5, 0], [-2, 1], [0, 3], [1, 1]], np.float32)
HOBBIES = np.array([[0, 0], [2, 1], [1, 0]], np.int32)
AGE = np.array([[0], [0.5], [-1]], np.float32)
GENRE, TAG, PERSON, PRICE, LENGTH, RATING, REGION, HOBBY, OLD, DEVICE, HOUR = np.cumsum(
    [4, 2, 3, 4, 1, 1, 5, 2, 2, 1, 3]
).tolist()
"""Rows of the table before each feature's, after those of the items."""


def _rich() -> FeatureEmbedding:
    features = FeatureEmbedding(RICH, dim=8)
    features.attach(
        SideFeatures(ITEM_CODES[:, :1], {"tags": TAGS, "cast": CAST}, NUMBERS),
        SideFeatures(USER_CODES, {"hobbies": HOBBIES}, AGE),
    )
    return features


def _with_context(batch: Batch, *codes: int) -> Batch:
    return replace(batch, context_BC=torch.tensor([codes], dtype=torch.int32))


def test_several_values_are_a_mean_and_a_number_stretches_its_vector() -> None:
    features = _rich()
    rows = features.table.weight.detach()
    fields = features(_with_context(_batch(1, 1, [3, 4], [1, 2]), 2, 0))
    item_1 = [
        rows[1],
        rows[GENRE + 1],
        (rows[TAG + 1] + rows[TAG + 3]) / 2,
        (rows[PERSON + 4] + rows[PERSON + 2] + rows[PERSON + 1]) / 3,
        1.5 * rows[PRICE + 1],
        0 * rows[LENGTH + 1],
    ]
    torch.testing.assert_close(fields.target_BNE[0], torch.stack(item_1))
    item_3 = [rows[3], rows[GENRE + 2], rows[0], rows[PERSON + 3], rows[0], 3 * rows[LENGTH + 1]]
    torch.testing.assert_close(_steps(fields)[0, 0], torch.stack([*item_3, rows[RATING + 1]]))
    user_1 = [rows[REGION + 2], (rows[HOBBY + 1] + rows[HOBBY + 2]) / 2, 0.5 * rows[OLD + 1]]
    moment = [rows[DEVICE + 2], rows[0]]
    torch.testing.assert_close(fields.extra_BXE[0], torch.stack([*user_1, *moment]))
    assert len(rows) == 1 + HOUR + 2


def test_fields_of_every_kind_are_counted() -> None:
    features = _rich()
    fields = features(_with_context(_batch(1, 1, [3], [1]), 1, 1))
    assert features.counts[:4] == (6, 7, 5, 8)
    assert fields.target_BNE.shape[1] == 6
    assert _steps(fields).shape[2] == 7
    assert fields.extra_BXE.shape[1] == 5


def test_whatever_is_unknown_of_a_rich_entity_is_zero_and_stays_zero() -> None:
    features = _rich()
    fields = features(_with_context(_batch(0, 0, [0, 1], [0, 3]), 0, 0))
    for zero in (fields.target_BNE, _steps(fields)[:, 0], fields.extra_BXE):
        assert not zero.any()
    (fields.target_BNE.sum() + _steps(fields).sum() + fields.extra_BXE.sum()).backward()
    assert features.table.weight.grad is not None
    assert not features.table.weight.grad[0].any()


def test_rich_items_are_embedded_alike_whether_all_are_or_those_of_the_batch() -> None:
    features = _rich()
    few, many = _batch(1, 2, [3], [4]), _batch(1, 2, [0, 0, 0, 0, 3], [0, 0, 0, 0, 4])
    alone, with_padding = (features(_with_context(batch, 3, 1)) for batch in (few, many))
    assert len(alone.history.item_UK) < len(with_padding.history.item_UK)
    torch.testing.assert_close(alone.target_BNE, with_padding.target_BNE)
    torch.testing.assert_close(_steps(alone), _steps(with_padding)[:, 4:])


def test_a_batch_takes_its_context_along(make_tiny_dataset: Callable[..., Dataset]) -> None:
    dataset = make_tiny_dataset(rich=True)
    samples = load_samples(dataset, "test")
    batch = Batch.of(samples)
    assert batch.context_BC is not None
    np.testing.assert_array_equal(batch.context_BC, samples.context_BK)
    part = batch.take(torch.tensor([3, 1])).slice(0, 1)
    np.testing.assert_array_equal(part.context_BC, samples.context_BK[3:4])
    assert Batch.of(load_samples(make_tiny_dataset(), "test")).context_BC is None


def test_rich_features_of_a_dataset_reach_the_score(
    make_tiny_dataset: Callable[..., Dataset],
) -> None:
    """Each kind alone moves a score: its rows of the table have a gradient."""
    dataset = make_tiny_dataset(rich=True)
    features = FeatureEmbedding(dataset.schema, dim=4)
    features.attach(*feature_tables(dataset))
    fields = features(Batch.of(load_samples(dataset, "train")))
    (fields.target_BNE.square().sum() + fields.extra_BXE.square().sum()).backward()
    gradient = features.table.weight.grad
    assert gradient is not None
    schema = dataset.schema
    sizes = [schema.num_items, 3, 4, 1, 1, 5, 4, 1, 3, 2]
    assert 1 + sum(sizes) == len(gradient)
    for number, rows in enumerate(gradient[1:].split(sizes)):
        is_rating = number == 5
        assert bool(rows.any()) != is_rating, number
