import numpy as np
import torch
from torch import Tensor

from lorecast.data.dataset import FeatureSchema
from lorecast.models.features import FeatureEmbedding
from lorecast.models.inputs import Batch, Fields

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
    features.attach(ITEM_CODES, USER_CODES)
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
    features.attach(np.zeros((5, 0), np.int32), np.zeros((3, 0), np.int32))
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
