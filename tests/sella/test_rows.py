"""Which items a prompt shows, which rows a stage trains on."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lorecast.config import SellaConfig
from lorecast.data.batches import load_samples
from lorecast.data.dataset import Dataset
from lorecast.sella.rows import PromptRows, liked, liked_levels, newest, trained_rows


def test_the_newest_liked_items_stand_on_the_right() -> None:
    item_BL = np.asarray([[0, 1, 2, 3, 4], [0, 0, 0, 0, 9], [5, 6, 7, 8, 9]], np.int32)
    kept_BL = np.asarray([[0, 1, 0, 1, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], bool)
    np.testing.assert_array_equal(newest(item_BL, kept_BL, 2), [[3, 4], [0, 0], [8, 9]])
    np.testing.assert_array_equal(newest(item_BL, kept_BL, 6)[:2], [[0, 0, 0, 1, 3, 4], [0] * 6])


def test_rows_of_a_dataset_show_what_was_rated_high(tiny_dataset: Dataset) -> None:
    samples = load_samples(tiny_dataset, "train")
    liked_BL = liked(samples, tiny_dataset, 4.0)
    np.testing.assert_array_equal(liked_BL, samples.history_rating_BL >= 4)
    rows = PromptRows.load(tiny_dataset, "train", SellaConfig(), 4.0)
    np.testing.assert_array_equal((rows.liked_BM > 0).sum(1), liked_BL.sum(1))
    np.testing.assert_array_equal(rows.item_row_B, samples.item_row_B)


def test_labels_alone_mean_liked_or_not() -> None:
    np.testing.assert_array_equal(liked_levels((0.0, 1.0), 4.0), [False, False, True])
    np.testing.assert_array_equal(liked_levels((1.0, 3.0, 5.0), 3.0), [False, False, True, True])


@pytest.mark.parametrize("whole", ["user", "prefix"])
def test_rows_are_drawn_in_whole_groups(rows: PromptRows, whole: str) -> None:
    drawn = rows.draw(7, 0, whole=whole)  # type: ignore[arg-type]
    assert len(drawn) == 6, "pairs of rows share user and history"
    np.testing.assert_array_equal(*np.unique(drawn.user_row_B, return_counts=True)[1:], [2, 2, 2])
    assert rows.draw(None, 0, whole="user") is rows


def test_rows_without_history_can_be_left_out(rows: PromptRows) -> None:
    kept = rows.with_history()
    assert 0 < len(kept) < len(rows)
    assert kept.liked_BM.any(1).all()


def test_trained_rows_leave_the_unknown_out() -> None:
    np.testing.assert_array_equal(trained_rows(np.asarray([2, 0, 2]), 3), [0, 0, 1, 0])


_CONFIG = """
name: collm
dataset:
  source: tables
  path: {path}
  interactions: {{file: [train.parquet, valid.parquet, test.parquet], user: uid, item: iid,
                 label: label, timestamp: timestamp, history: his}}
  users: {{file: users.parquet, id: uid}}
  items: {{file: items.parquet, id: iid, title: title}}
  prefix_share: 0
  split: {{by: column, column: flag, values: {{train: -1, valid: 0, test: 1}}}}
compute: {{workspace: {workspace}}}
"""


@pytest.mark.data
@pytest.mark.usefixtures("ray_cluster")
def test_collm_s_split_has_the_published_rows(
    data_folder: Path, tmp_path: Path, make_config: Callable[[str], Path]
) -> None:
    """papers: 33,891 / 10,401 / 7,331 rows, of which 32,616 and 7,269 have a liked title; warm
    4,153 and cold 3,178 rows of the test."""
    from lorecast.config import load_config
    from lorecast.jobs.console import Console
    from lorecast.jobs.pipeline import Pipeline

    text = _CONFIG.format(path=data_folder / "collm-ml-1m", workspace=tmp_path)
    dataset = Pipeline(load_config(make_config(text)), Console(quiet=True)).dataset
    rows = {
        split: PromptRows.load(dataset, split, SellaConfig(), 4.0)
        for split in ("train", "valid", "test")
    }
    assert {split: len(part) for split, part in rows.items()} == {
        "train": 33_891,
        "valid": 10_401,
        "test": 7_331,
    }
    assert len(rows["train"].with_history()) == 32_616
    assert len(rows["test"].with_history()) == 7_269
    users = trained_rows(rows["train"].user_row_B, dataset.schema.num_users)
    items = trained_rows(rows["train"].item_row_B, dataset.schema.num_items)
    assert (users.sum(), items.sum()) == (740, 3_087)
    warm = users[rows["test"].user_row_B] & items[rows["test"].item_row_B]
    assert (warm.sum(), (~warm).sum()) == (4_153, 3_178)
