"""Bundles and registries that tests of this room share."""

from pathlib import Path

import pytest

from lorecast.lifecycle.mlflow_registry import MLflowRegistry


@pytest.fixture(scope="session")
def mlflow_registry(tmp_path_factory: pytest.TempPathFactory) -> MLflowRegistry:
    """One SQLite store for the session, as making it takes seconds: tests name their models."""
    folder: Path = tmp_path_factory.mktemp("mlflow")
    return MLflowRegistry(
        tracking_uri=f"sqlite:///{folder / 'mlflow.db'}",
        experiment="tests",
    )
