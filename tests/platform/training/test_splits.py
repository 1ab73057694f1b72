from pathlib import Path

import numpy as np
import pytest

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
