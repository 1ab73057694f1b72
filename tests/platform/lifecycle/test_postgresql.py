"""What every registry does, with MLflow's tables in a real PostgreSQL."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from lorecast.lifecycle.mlflow_registry import MLflowRegistry
from lorecast.lifecycle.registry import Registry
from tests.platform.lifecycle.test_registry import RegistryContract, bundle
from tests.postgresql import postgresql

__all__ = ["bundle"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PostgreSQL URI, with the experiment `tests`."""
    from mlflow import MlflowClient

    with TemporaryDirectory(prefix="lorecast-") as name:
        Path(name).chmod(0o755)  # for the user who runs PostgreSQL
        with postgresql(Path(name) / "postgresql") as uri:
            files = tmp_path_factory.mktemp("files")
            with warnings.catch_warnings(action="ignore"):
                MlflowClient(uri).create_experiment("tests", artifact_location=str(files))
            yield uri


class TestMLflowOnPostgreSQL(RegistryContract):
    @pytest.fixture
    def registry(self, store: str) -> Registry:
        return MLflowRegistry(tracking_uri=store, experiment="tests")
