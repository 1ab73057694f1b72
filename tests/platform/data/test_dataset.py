"""Reading a prepared dataset: shapes, row 0, shards, and folders that are none."""

from collections.abc import Callable

import numpy as np
import pytest

from lorecast.artifacts import StageSpec, build
from lorecast.data.batches import load_samples
from lorecast.data.dataset import Dataset
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
