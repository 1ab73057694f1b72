"""Fixtures that several rooms share."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lorecast.data.dataset import Dataset
from tests.tiny_dataset import write_tiny_dataset

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One local Ray for the whole session; tests that need Ray name this fixture."""
    import ray

    ray.init(
        address="local",
        num_cpus=8,
        include_dashboard=False,
        object_store_memory=300 * 2**20,
        logging_level="warning",
        log_to_driver=False,
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder with MovieLens; tests that use it are marked `data`."""
    folder = Path(os.environ.get("LORECAST_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "ml-1m").is_dir():
        reason = f"no MovieLens in {folder}: name its folder in LORECAST_TEST_DATA"
        if os.environ.get("LORECAST_REQUIRE_DATA") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return folder


@pytest.fixture
def tiny_dataset(tmp_path: Path) -> Dataset:
    """A valid prepared dataset of a few hundred samples, made without Ray."""
    return write_tiny_dataset(tmp_path / "workspace")


@pytest.fixture
def make_tiny_dataset(tmp_path: Path) -> Callable[..., Dataset]:
    """Like `tiny_dataset`, with the arguments of `write_tiny_dataset`."""

    def make(**sizes: Any) -> Dataset:
        return write_tiny_dataset(tmp_path / "workspace", **sizes)

    return make


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
