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
