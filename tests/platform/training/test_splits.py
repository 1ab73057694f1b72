from pathlib import Path

import numpy as np
import pytest
import torch

from lorecast.data.batches import load_samples
from lorecast.data.dataset import Dataset
from lorecast.errors import LeakageError
from lorecast.training.splits import Splits
from tests.small_bundle import write_vectors


def test_shards_part_the_training_samples_only(tiny_dataset: Dataset) -> None:
    whole = Splits.load(tiny_dataset, None)
    halves = [Splits.load(tiny_dataset, None, shard=i, num_shards=2) for i in range(2)]
    assert sum(len(half.train) for half in halves) == len(whole.train)
    assert all(len(half.valid) == len(whole.valid) for half in halves)


def test_knowledge_up_to_the_first_sample_is_fair_and_one_later_leaks(
    tiny_dataset: Dataset, tmp_path: Path
) -> None:
    vectors = write_vectors(tmp_path, tiny_dataset)
    Splits.load(tiny_dataset, vectors)
    ends = tiny_dataset.history_end()
    ends[5] += 1
    np.save(vectors.path / "user_history_end.npy", ends)
    planted = type(vectors).open(vectors.path)
    with pytest.raises(LeakageError, match=r"has seen samples.*user 'u5'"):
        Splits.load(tiny_dataset, planted)


def test_samples_that_do_not_fit_are_memory_mapped_and_the_same(tiny_dataset: Dataset) -> None:
    whole = Splits.load(tiny_dataset, None).train
    mapped = load_samples(tiny_dataset, "train", most_bytes=1000)
    assert all(isinstance(getattr(mapped, name), np.memmap) for name in ("item_row_B", "label_B"))
    train = Splits.load(tiny_dataset, None, most_bytes=1000).train
    order = torch.randperm(len(whole))
    for found, expected in zip(
        vars(train.rows.take(order)).values(), vars(whole.rows.take(order)).values(), strict=True
    ):
        assert (found is None) == (expected is None)
        if found is not None:
            assert torch.equal(found, expected)
    assert torch.equal(train.label_B, whole.label_B)


def test_protocol_kar_trains_on_train_and_valid_and_chooses_on_the_test_part(
    tiny_dataset: Dataset,
) -> None:
    honest = Splits.load(tiny_dataset, None)
    kar = Splits.load(tiny_dataset, None, protocol="kar")
    for name in ("user_row_B", "item_row_B", "history_item_BL"):
        of_train, of_valid = (getattr(part.rows, name) for part in (honest.train, honest.valid))
        assert torch.equal(getattr(kar.train.rows, name), torch.cat([of_train, of_valid]))
    assert torch.equal(kar.train.label_B, torch.cat([honest.train.label_B, honest.valid.label_B]))
    assert torch.equal(kar.test.rows.item_row_B, honest.test.rows.item_row_B)
    assert kar.valid is kar.test
    shards = [
        Splits.load(tiny_dataset, None, protocol="kar", shard=i, num_shards=3) for i in range(3)
    ]
    items = torch.cat([shard.train.rows.item_row_B for shard in shards])
    assert torch.equal(items, kar.train.rows.item_row_B)
