"""What comes from elsewhere runs nothing, leads nowhere else, and tokens stay out of sight."""

import json
import pickle
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lorecast.artifacts import Artifact
from lorecast.config import load_config
from lorecast.data.batches import load_samples
from lorecast.data.dataset import Dataset
from lorecast.encoding.vectors import VectorsTable
from lorecast.errors import ArtifactError, EncodingError, RegistryError
from lorecast.jobs import register
from lorecast.jobs.console import Console
from lorecast.lifecycle.bundle import Bundle
from lorecast.lifecycle.card import is_inside
from lorecast.lifecycle.mlflow_registry import open_registry
from lorecast.lifecycle.registry import CHAMPION, ModelVersion, parse_reference
from lorecast.lifecycle.scorer import Scorer
from lorecast.lifecycle.texts import read_texts
from tests.small_bundle import make_model, write_small_bundle, write_trained, write_vectors

pytestmark = pytest.mark.security


class _Program:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._mark,)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "ran"


@pytest.fixture
def workspace(tiny_dataset: Dataset) -> Path:
    return tiny_dataset.path.parents[1]


def pickled(mark: Path) -> bytes:
    return pickle.dumps(_Program(mark))


def array_of_objects(mark: Path) -> bytes:
    """A .npy file that holds a pickle."""
    path = mark.with_name("objects.npy")
    np.save(path, np.array([_Program(mark)], dtype=object), allow_pickle=True)
    return path.read_bytes()


def plant(path: Path, content: bytes) -> None:
    """Into a file, and into the sizes that a bundle's card knows."""
    path.write_bytes(content)
    card_path = path.parent / "bundle.json"
    if card_path.exists() and path != card_path:
        card = json.loads(card_path.read_text())
        card["files"][path.name] = len(content)
        card_path.write_text(json.dumps(card))


def test_the_programs_would_run(mark: Path) -> None:
    pickle.loads(pickled(mark))
    assert mark.exists()
    mark.unlink()
    (mark.parent / "own.npy").write_bytes(array_of_objects(mark))
    np.load(mark.parent / "own.npy", allow_pickle=True)
    assert mark.exists()


class TestPickles:
    @pytest.mark.parametrize("make", [pickled, array_of_objects])
    def test_in_any_file_of_a_bundle(
        self, workspace: Path, tiny_dataset: Dataset, mark: Path, make: Callable[[Path], bytes]
    ) -> None:
        folder = write_small_bundle(workspace, tiny_dataset, texts=True)
        content = make(mark)
        names = sorted(path.name for path in folder.iterdir())
        assert {"weights.safetensors", "item.npy", "texts.parquet", "bundle.json"} <= set(names)
        refused = 0
        for name in names:
            before = {path: path.read_bytes() for path in folder.iterdir()}
            plant(folder / name, content)
            try:
                Scorer.load(folder).rank("u4", 3)
            except ArtifactError:
                refused += 1
            with suppress(Exception):
                read_texts(folder, "item", 2)
            for read in (Bundle.history_end, partial(Bundle.has_text, side="item")):
                with suppress(Exception):
                    read(Bundle.open(folder))
            assert not mark.exists(), name
            for path, old in before.items():
                path.write_bytes(old)
        assert refused >= 5

    def test_beside_the_files_of_a_bundle(
        self, workspace: Path, tiny_dataset: Dataset, mark: Path
    ) -> None:
        folder = write_small_bundle(workspace, tiny_dataset)
        for name in ("model.pkl", "pytorch_model.bin", "weights.pt", "data.pickle", "state.joblib"):
            plant(folder / name, pickled(mark))
        assert Scorer.load(folder).rank("u4", 3).item_ids
        assert not mark.exists()

    @pytest.mark.parametrize("make", [pickled, array_of_objects])
    @pytest.mark.parametrize("name", ["item.npy", "item_mask.npy", "user_history_end.npy"])
    def test_in_a_vectors_folder(
        self,
        workspace: Path,
        tiny_dataset: Dataset,
        mark: Path,
        name: str,
        make: Callable[[Path], bytes],
    ) -> None:
        vectors = write_vectors(workspace, tiny_dataset)
        plant(vectors.path / name, make(mark))
        opened = VectorsTable.open(vectors.path)
        reads = {
            "item.npy": lambda: opened.vectors("item"),
            "item_mask.npy": lambda: opened.mask("item"),
            "user_history_end.npy": lambda: opened.user_history_end,
        }
        with pytest.raises(EncodingError, match=rf"{name} is damaged"):
            reads[name]()
        assert not mark.exists()

    def test_in_the_workspace(self, workspace: Path, tiny_dataset: Dataset, mark: Path) -> None:
        """Each file of the artifacts of preparing, encoding and training."""
        vectors = write_vectors(workspace, tiny_dataset)
        model = make_model(tiny_dataset, vectors)
        trained = write_trained(workspace, model, tiny_dataset, vectors)
        folders = (tiny_dataset.path, vectors.path, trained.path)
        files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
        assert len(files) > 12
        for path in files:
            before = path.read_bytes()
            path.write_bytes(pickled(mark))
            with suppress(Exception):
                dataset = Dataset.open(tiny_dataset.path)
                load_samples(dataset, "test")
                dataset.users(), dataset.items()
            with suppress(Exception):
                opened = VectorsTable.open(vectors.path)
                opened.vectors("item"), opened.mask("user")
            with suppress(Exception):
                from lorecast.lifecycle.bundle import write_bundle

                artifact = Artifact.open(trained.path)
                write_bundle(workspace / "bundle", artifact, tiny_dataset, vectors, prestore=True)
            assert not mark.exists(), path
            path.write_bytes(before)

    def test_in_a_model_of_mlflow(
        self,
        workspace: Path,
        tiny_dataset: Dataset,
        mark: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Where MLflow's own flavours look for one, and inside the bundle it keeps."""
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        config = load_config(None, ["name=tiny", f"compute.workspace={workspace}"])
        trained = write_trained(workspace, make_model(tiny_dataset, None), tiny_dataset, None)
        register.run(config, trained, tiny_dataset, None, None, Console(quiet=True))
        (model,) = (workspace / "mlartifacts").rglob("MLmodel")
        (bundle,) = (model.parent / "artifacts").iterdir()
        for name in ("python_model.pkl", "model.pkl", "data/model.pth"):
            for folder in (model.parent, bundle):
                (folder / name).parent.mkdir(exist_ok=True)
                (folder / name).write_bytes(pickled(mark))
        text = model.read_text().replace(
            "python_model:", "python_model: python_model.pkl\n    was:"
        )
        model.write_text(text)
        registry = open_registry(config)
        version = registry.resolve(*parse_reference(f"models:/lorecast-tiny@{CHAMPION}"))
        registry.download(version, workspace / "fetched")
        assert Scorer.load(workspace / "fetched").rank("u4", 3).item_ids
        assert not mark.exists()


class TestPaths:
    @pytest.mark.parametrize(
        ("name", "inside"),
        [
            ("item.npy", True),
            ("llm/config.json", True),
            ("../item.npy", False),
            ("llm/../../x", False),
            ("/etc/passwd", False),
            ("", False),
            (".", False),
        ],
    )
    def test_names_in_files_stay_inside(self, name: str, inside: bool) -> None:
        assert is_inside(name) == inside

    @pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "a/../../secret"])
    def test_a_card_cannot_name_files_elsewhere(
        self, workspace: Path, tiny_dataset: Dataset, name: str
    ) -> None:
        folder = write_small_bundle(workspace, tiny_dataset)
        (workspace / "secret").write_text("12")
        card = json.loads((folder / "bundle.json").read_text())
        card["files"][name] = 2
        (folder / "bundle.json").write_text(json.dumps(card))
        with pytest.raises(ArtifactError, match="outside of the folder"):
            Scorer.load(folder)

    def test_nor_can_its_sides(self, workspace: Path, tiny_dataset: Dataset) -> None:
        folder = write_small_bundle(workspace, tiny_dataset)
        card = json.loads((folder / "bundle.json").read_text())
        card["prestored"] = {"../../item": 4}
        (folder / "bundle.json").write_text(json.dumps(card))
        with pytest.raises(ArtifactError, match="a side is item or user"):
            Bundle.open(folder)

    @pytest.mark.parametrize(
        "name", ["../up", "a/b", "/root", "..", ".hidden", "", "a\\b", "a\x00b"]
    )
    def test_a_registry_cannot_name_folders_elsewhere(self, name: str) -> None:
        with pytest.raises(RegistryError, match="the registry calls a model"):
            ModelVersion(model=name, number=1, run_id="0a1b")
        with pytest.raises(RegistryError, match="the registry calls a run"):
            ModelVersion(model="films", number=1, run_id=name)
        assert str(ModelVersion(model="lorecast-ml-1m v2.b", number=1, run_id="f")).endswith("/1")


def test_tokens_reach_no_run_and_no_tag(
    workspace: Path, tiny_dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor parameters, artifacts, bundle or manifests: no file of the workspace holds one."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tokens = {
        name: f"secret-{number}-0123456789abcdef"
        for number, name in enumerate(
            ("LORECAST_SERVE_TOKEN", "MLFLOW_TRACKING_TOKEN", "RAY_AUTH_TOKEN", "OPENAI_API_KEY")
        )
    }
    for name, token in tokens.items():
        monkeypatch.setenv(name, token)
    config = load_config(
        None,
        ["name=tiny", f"compute.workspace={workspace}", "serving.token_env=LORECAST_SERVE_TOKEN"],
    )
    trained = write_trained(workspace, make_model(tiny_dataset, None), tiny_dataset, None)
    register.run(config, trained, tiny_dataset, None, None, Console(quiet=True))
    files = [path for path in workspace.rglob("*") if path.is_file()]
    assert any(path.name == "mlflow.db" for path in files)
    for path in files:
        content = path.read_bytes()
        assert not [name for name, token in tokens.items() if token.encode() in content], path
