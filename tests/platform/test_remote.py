"""A workspace on S3: finished work is found from every machine, and nothing half-done is."""

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from uuid import uuid4

import httpx
import numpy as np
import pyarrow as pa
import pytest
import torch

from lorecast import remote
from lorecast.artifacts import MANIFEST, Artifact, StageSpec, build, find
from lorecast.config import load_config
from lorecast.encoding.stored import VectorStore, text_keys
from lorecast.errors import ArtifactError, ConfigError, KnowledgeError, RegistryError
from lorecast.jobs.cluster import connect
from lorecast.jobs.upload import check_experiment
from lorecast.knowledge.store import KnowledgeStore
from lorecast.lifecycle.mlflow_registry import open_registry
from lorecast.remote import Twin, local_folder
from lorecast.serve import run as serve_run
from lorecast.training.checkpoints import Checkpoints, Progress
from tests.object_store import CREDENTIALS, object_store
from tests.platform.knowledge.test_store import keys, part

SPEC = StageSpec(stage="prepare", name="toy", identity={"a": 1})
FILES = {"data": "1", "below/deeper/data": "2", ".hidden": "3"}


@pytest.fixture(scope="module")
def server() -> Iterator[dict[str, str]]:
    with object_store() as variables:
        yield variables


@pytest.fixture
def workspace(server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """A bucket of its own, found by AWS's variables."""
    for name, value in server.items():
        monkeypatch.setenv(name, value)
    bucket = f"test-{uuid4().hex}"
    httpx.put(f"{server['AWS_ENDPOINT_URL']}/{bucket}").raise_for_status()
    return f"s3://{bucket}/some/where"


@pytest.fixture
def here(workspace: str, tmp_path: Path) -> Path:
    return local_folder(workspace, str(tmp_path / "here"))


@pytest.fixture
def there(workspace: str, tmp_path: Path) -> Path:
    """The same workspace as another machine sees it."""
    return local_folder(workspace, str(tmp_path / "there"))


def make(folder: Path, files: dict[str, str] | None = None) -> Artifact:
    with build(folder, SPEC) as draft:
        for name, text in (FILES if files is None else files).items():
            (draft.path / name).parent.mkdir(parents=True, exist_ok=True)
            (draft.path / name).write_text(text)
        draft.facts["rows"] = 7
    return Artifact.open(SPEC.folder(folder))


def test_what_is_finished_is_found_from_another_machine(here: Path, there: Path) -> None:
    assert find(there, SPEC) is None
    made = make(here)
    found = find(there, SPEC)
    assert found is not None
    assert found.manifest == made.manifest
    assert {name: (found.path / name).read_text() for name in FILES} == FILES
    # Not younger than what it tells of: a run says `cached`.
    assert (found.path / MANIFEST).stat().st_mtime <= (made.path / MANIFEST).stat().st_mtime


def test_an_artifact_is_opened_by_its_folder_from_another_machine(here: Path, there: Path) -> None:
    make(here)
    assert Artifact.open(SPEC.folder(there)).facts == {"rows": 7}
    assert remote.listed(there / "prepare", "toy-*") == [SPEC.folder(there)]
    assert remote.listed(there / "prepare", "other-*") == []


def test_what_was_not_copied_whole_is_not_there_and_is_copied_later(
    here: Path, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = Twin.put

    def fails(twin: Twin, path: Path) -> None:
        if path.name == "data":
            raise ArtifactError("no connection")
        put(twin, path)

    with monkeypatch.context() as patch, pytest.raises(ArtifactError, match="no connection"):
        patch.setattr(Twin, "put", fails)
        make(here)
    assert find(there, SPEC) is None
    assert find(here, SPEC) is not None
    found = find(there, SPEC)
    assert found is not None
    assert (found.path / "data").read_text() == "1"


def test_a_copy_that_was_cut_off_is_fetched_anew(
    here: Path, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(here)
    get = Twin.get

    def fails(twin: Twin, path: Path) -> None:
        if path.name == ".hidden":
            raise ArtifactError("no connection")
        get(twin, path)

    with monkeypatch.context() as patch, pytest.raises(ArtifactError, match="no connection"):
        patch.setattr(Twin, "get", fails)
        find(there, SPEC)
    assert not (SPEC.folder(there) / MANIFEST).exists()
    found = find(there, SPEC)
    assert found is not None
    assert (found.path / ".hidden").exists()


def test_the_later_of_two_counts(here: Path, there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(here, {"data": "old"})
    assert find(there, SPEC) is not None
    manifest = json.loads((SPEC.folder(here) / MANIFEST).read_text())
    make(here, {"data": "new"})
    later = Artifact.open(SPEC.folder(here))
    later_manifest = {**later.manifest, "created": "2999-01-01T00:00:00+00:00"}
    (later.path / MANIFEST).write_text(json.dumps(later_manifest))
    assert find(here, SPEC) is not None
    found = find(there, SPEC)
    assert found is not None
    assert (found.path / "data").read_text() == "new"
    assert found.manifest["created"] > manifest["created"]


def test_a_file_that_is_not_what_was_written_is_refused(here: Path, there: Path) -> None:
    make(here)
    twin = Twin.of(SPEC.folder(here))
    assert twin is not None
    [place] = [name for name in twin.names() if name != MANIFEST]
    (twin / place / "data").write(b"other")
    with pytest.raises(ArtifactError, match=f"{place}/data is not what was written; delete s3://"):
        find(there, SPEC)
    assert not (SPEC.folder(there) / MANIFEST).exists()


def test_answers_are_shared(here: Path, there: Path) -> None:
    mine, theirs = (KnowledgeStore(folder / "knowledge") for folder in (here, there))
    mine.append(part("a", "b"))
    assert theirs.index().is_answered(keys("a", "b", "c")).tolist() == [True, True, False]
    theirs.append(part("c"))
    shutil.rmtree(mine.folder)
    assert mine.index().is_answered(keys("a", "b", "c")).all()


def test_an_answer_that_could_not_be_copied_is_copied_later(
    here: Path, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, theirs = (KnowledgeStore(folder / "knowledge") for folder in (here, there))
    with monkeypatch.context() as patch, pytest.raises(ArtifactError):
        patch.setattr(remote, "_open", _refuses)
        mine.append(part("a"))
    assert not theirs.index().is_answered(keys("a")).any()
    assert mine.index().is_answered(keys("a")).all()
    assert theirs.index().is_answered(keys("a")).all()


def test_a_store_on_object_storage_is_not_compacted(here: Path) -> None:
    store = KnowledgeStore(here / "knowledge")
    store.append(part("a"))
    with pytest.raises(KnowledgeError, match=r"s3://.*knowledge cannot be compacted"):
        store.compact()


def test_vectors_are_shared(here: Path, there: Path) -> None:
    texts = pa.array(["one", "two"])
    VectorStore(here / "vectors").append(text_keys(texts), np.ones((2, 4), np.float16))
    assert VectorStore(there / "vectors").sort(texts).num_stored == 2


def test_a_training_goes_on_on_another_machine(here: Path, there: Path) -> None:
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    mine, theirs = (
        Checkpoints(folder / "train" / "one.safetensors", 0) for folder in (here, there)
    )
    assert theirs.load(model, optimizer) is None
    best = {name: value.clone() for name, value in model.state_dict().items()}
    mine.save(Progress(epoch=3), model, best, optimizer)
    found = theirs.load(model, optimizer)
    assert found is not None
    assert found[0].epoch == 3
    remote.discard(theirs.path)
    shutil.rmtree(mine.path.parent)
    assert mine.load(model, optimizer) is None
    remote.discard(mine.path)


def test_a_folder_has_no_twin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_open", _refuses)
    assert Twin.of(tmp_path) is None
    make(tmp_path)
    assert find(tmp_path, SPEC) is not None
    assert remote.fetch(SPEC.folder(tmp_path) / "data")
    assert not remote.fetch(tmp_path / "nothing")


def test_no_such_bucket(workspace: str, tmp_path: Path) -> None:
    folder = local_folder("s3://nobody-has-this/prefix", str(tmp_path))
    with pytest.raises(ArtifactError, match=r"^s3://nobody-has-this/.*there is no such bucket"):
        find(folder, SPEC)


class _Forbids(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_response(403)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.mark.security
def test_refused_keys_are_named_without_their_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = HTTPServer(("127.0.0.1", 0), _Forbids)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    with pytest.raises(ArtifactError, match=r"ACCESS_DENIED in Head.*AWS_SECRET") as told:
        find(local_folder("s3://bucket/prefix", str(tmp_path)), SPEC)
    server.shutdown()
    server.server_close()
    assert not any(value in str(told.value) for value in CREDENTIALS.values())


@pytest.mark.security
@pytest.mark.parametrize(
    "place",
    [
        "s3://key:not-to-be-printed@bucket/prefix",
        "s3://bucket/prefix?secret_key=not-to-be-printed",
        "s3://",
        "s3://bucket//prefix",
        "s3://bucket/../prefix",
        "gs://bucket/prefix",
    ],
)
def test_a_place_with_keys_or_of_another_kind_is_refused(place: str) -> None:
    with pytest.raises(ConfigError, match=r"compute.workspace takes a folder or s3://") as told:
        load_config(None, [f"compute.workspace={place}"])
    assert "not-to-be-printed" not in str(told.value)


def test_the_copy_lies_below_the_cache(tmp_path: Path) -> None:
    config = load_config(None, ["compute.workspace=s3://bucket/a/b/", f"compute.cache={tmp_path}"])
    assert config.compute.folder == tmp_path / "s3:" / "bucket" / "a" / "b"
    twin = Twin.of(config.compute.folder / "train")
    assert str(twin) == "s3://bucket/a/b/train"


def test_what_does_not_work_on_object_storage_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr("ray.is_initialized", lambda: False)  # other tests leave theirs
    words = ["compute.workspace=s3://bucket/prefix", "compute.address=auto"]
    config = load_config(None, words)
    with pytest.raises(RegistryError, match=r"SQLite file cannot lie: .*registry.tracking_uri"):
        open_registry(config)
    with pytest.raises(ConfigError, match=r"nodes of auto .*compute\.cache"):
        connect(config.compute)
    with pytest.raises(ConfigError, match=r"compute\.cache"), serve_run._ray(config):
        pass
    with pytest.raises(ConfigError, match=r"compute\.cache"):
        check_experiment(words)
    check_experiment([*words, "compute.cache=/mnt/shared"])


def _refuses(*_: object) -> None:
    raise OSError("no connection")
