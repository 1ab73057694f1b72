"""Reading a prepared dataset: shapes, row 0, shards, and folders that are none."""

import json
from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import pytest

from lorecast.artifacts import StageSpec, build
from lorecast.data.batches import load_samples
from lorecast.data.dataset import Dataset, FeatureSchema
from lorecast.data.layout import SPLITS, samples_folder
from lorecast.errors import ArtifactError, InputError


def test_schema_and_tables_agree_by_row(tiny_dataset: Dataset) -> None:
    items = tiny_dataset.items()
    codes = tiny_dataset.feature_codes("item")
    assert tiny_dataset.schema.num_items == items.num_rows == len(codes) - 1
    assert codes[0].tolist() == [0]
    genres = tiny_dataset.vocabularies["item"]["genre"]
    assert [genres[code - 1] for code in codes[1:, 0]] == items["genre"].to_pylist()
    assert tiny_dataset.feature_codes("user").shape == (tiny_dataset.schema.num_users + 1, 0)
    assert tiny_dataset.schema.item_features == {"genre": 3}
    assert tiny_dataset.schema.num_rating_levels == 5


def test_samples_begin_after_what_prompts_may_show(tiny_dataset: Dataset) -> None:
    history_end = tiny_dataset.history_end()
    assert history_end[0] == -1
    for split in SPLITS:
        samples = load_samples(tiny_dataset, split)
        assert (samples.position_B > history_end[samples.user_row_B]).all()


def test_histories_are_padded_on_the_left(tiny_dataset: Dataset) -> None:
    samples = load_samples(tiny_dataset, "train")
    depth = np.minimum(samples.position_B, tiny_dataset.history_length)
    assert (np.count_nonzero(samples.history_item_BL, axis=1) == depth).all()
    assert (samples.history_item_BL[depth > 0, -1] > 0).all()
    assert ((samples.history_item_BL == 0) == (samples.history_rating_BL == 0)).all()


def test_shards_make_up_the_split(tiny_dataset: Dataset) -> None:
    whole = load_samples(tiny_dataset, "train")
    shards = [load_samples(tiny_dataset, "train", shard, 3) for shard in range(3)]
    assert {len(shard) - len(whole) // 3 for shard in shards} <= {0, 1}
    joined = np.concatenate([shard.history_item_BL for shard in shards])
    assert np.array_equal(joined, whole.history_item_BL)
    assert np.array_equal(np.concatenate([s.label_B for s in shards]), whole.label_B)


def test_take_keeps_columns_together(tiny_dataset: Dataset, rng: np.random.Generator) -> None:
    samples = load_samples(tiny_dataset, "valid")
    order = rng.permutation(len(samples))
    taken = samples.take(order)
    assert np.array_equal(taken.timestamp_B, samples.timestamp_B[order])
    assert np.array_equal(taken.history_rating_BL, samples.history_rating_BL[order])


def test_features_of_every_kind(make_tiny_dataset: Callable[..., Dataset]) -> None:
    dataset = make_tiny_dataset(rich=True)
    schema = dataset.schema
    assert (schema.item_multi, schema.user_multi) == ({"tags": 4}, {"hobbies": 4})
    assert (schema.item_numeric, schema.user_numeric) == (("price", "length"), ("age",))
    assert schema.context == {"device": 3, "hour": 2}
    assert FeatureSchema.from_dict(json.loads(json.dumps(asdict(schema)))) == schema
    tags = dataset.multi_codes("item")["tags"]
    assert tags.shape == (schema.num_items + 1, 2)
    assert tags.dtype == np.int32
    assert not tags[0].any()
    assert dataset.multi_codes("user")["hobbies"].shape == (schema.num_users + 1, 3)
    numbers = dataset.numeric("item")
    assert (numbers.shape, numbers.dtype) == ((schema.num_items + 1, 2), np.float32)
    assert not numbers[0].any()
    whole = load_samples(dataset, "train")
    assert whole.context_BK.shape == (len(whole), 2)
    assert set(whole.context_BK[:, 0].tolist()) == {0, 1, 2, 3}
    shards = [load_samples(dataset, "train", shard, 3).context_BK for shard in range(3)]
    assert np.array_equal(np.concatenate(shards), whole.context_BK)


def test_a_schema_of_before_there_were_such_features(tiny_dataset: Dataset) -> None:
    schema = asdict(tiny_dataset.schema)
    for name in ("item_multi", "user_multi", "item_numeric", "user_numeric", "context"):
        assert not schema.pop(name)
    assert FeatureSchema.from_dict(schema) == tiny_dataset.schema
    assert load_samples(tiny_dataset, "valid").context_BK.shape[1] == 0
    assert tiny_dataset.multi_codes("item") == {}
    assert tiny_dataset.numeric("user").shape == (tiny_dataset.schema.num_users + 1, 0)


def test_an_empty_split_is_named(tiny_dataset: Dataset) -> None:
    for part in samples_folder(tiny_dataset.path, "valid").iterdir():
        part.unlink()
    with pytest.raises(InputError, match="'valid' has no samples"):
        load_samples(tiny_dataset, "valid")


def test_another_stages_output_is_refused(make_tiny_dataset: Callable[..., Dataset]) -> None:
    workspace = make_tiny_dataset().path.parents[1]
    spec = StageSpec(stage="encode", name="tiny", identity={})
    with build(workspace, spec):
        pass
    with pytest.raises(ArtifactError, match="an output of `encode`"):
        Dataset.open(spec.folder(workspace))
