"""What every registry does, and what MLflow's keeps."""

import socket
import time
from pathlib import Path

import pytest

from lorecast.errors import RegistryError
from lorecast.lifecycle.history import enrol
from lorecast.lifecycle.mlflow_registry import MLflowRegistry
from lorecast.lifecycle.registry import (
    CHALLENGER,
    CHAMPION,
    InMemoryRegistry,
    Registry,
    RunRecord,
    parse_reference,
)


def record(**tags: str) -> RunRecord:
    return RunRecord(
        name="a run",
        params={"model.backbone": "din"},
        metrics={"test_auc": 0.75},
        curves=[{"valid_auc": 0.6}, {"valid_auc": 0.7}],
        tags=tags,
        plots=[],
    )


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / "weights").write_bytes(b"weights")
    (folder / "bundle.json").write_text('{"contexts": {}}')
    return folder


class RegistryContract:
    """Any registry passes; a subclass gives the fixture `registry`."""

    def test_first_version_is_challenger_and_champion(
        self, registry: Registry, bundle: Path
    ) -> None:
        version = enrol(registry, "first", bundle, record(), "print-1")
        assert (version.number, version.aliases) == (1, (CHALLENGER, CHAMPION))

    def test_next_version_takes_challenger_only(self, registry: Registry, bundle: Path) -> None:
        enrol(registry, "next", bundle, record(), "print-1")
        second = enrol(registry, "next", bundle, record(), "print-2")
        assert (second.number, second.aliases) == (2, (CHALLENGER,))
        assert registry.aliases("next") == {CHAMPION: 1, CHALLENGER: 2}
        assert registry.resolve("next", 1).aliases == (CHAMPION,)

    def test_same_fingerprint_registers_nothing(self, registry: Registry, bundle: Path) -> None:
        first = enrol(registry, "same", bundle, record(), "print-1")
        assert enrol(registry, "same", bundle, record(), "print-1") == first
        with pytest.raises(RegistryError, match="has no version 2"):
            registry.resolve("same", 2)

    def test_unsealed_version_is_not_found(self, registry: Registry, bundle: Path) -> None:
        version = registry.add("unsealed", bundle, record())
        assert registry.find("unsealed", "print-1") is None
        registry.seal(version, "print-1")
        assert registry.find("unsealed", "print-1") == version

    def test_alias_resolves_to_a_number(self, registry: Registry, bundle: Path) -> None:
        for fingerprint in ("print-1", "print-2"):
            enrol(registry, "alias", bundle, record(), fingerprint)
        assert registry.resolve("alias", CHAMPION).number == 1
        registry.set_alias(registry.resolve("alias", 2), CHAMPION)
        assert registry.resolve("alias", CHAMPION).number == 2

    def test_a_place_of_the_history_is_taken_once(self, registry: Registry, bundle: Path) -> None:
        registry.add("places", bundle, record())
        assert registry.records("places") == ()
        assert registry.append("places", 0, "a")
        assert not registry.append("places", 0, "b")
        assert registry.append("places", 1, "b")
        assert registry.append("places", 1, "b"), "sent again after an answer was lost"
        assert list(registry.records("places")) == ["a", "b"]

    def test_an_alias_goes_and_may_be_gone(self, registry: Registry, bundle: Path) -> None:
        enrol(registry, "drop", bundle, record(), "print-1")
        for _ in range(2):
            registry.drop_alias("drop", CHALLENGER)
        assert registry.aliases("drop") == {CHAMPION: 1}

    def test_downloads_the_bundle(self, registry: Registry, bundle: Path, tmp_path: Path) -> None:
        version = enrol(registry, "download", bundle, record(), "print-1")
        registry.download(version, tmp_path / "got")
        assert (tmp_path / "got" / "weights").read_bytes() == b"weights"
        registry.download_run(version.run_id, tmp_path / "again")
        assert (tmp_path / "again" / "weights").read_bytes() == b"weights"
        with pytest.raises(RegistryError, match=r"[Rr]un.*0123"):
            registry.download_run("0123", tmp_path / "none")

    def test_logs_a_run_without_a_model(self, registry: Registry, tmp_path: Path) -> None:
        (tmp_path / "files").mkdir()
        (tmp_path / "files" / "audit.md").write_text("fine")
        first = registry.log(record(), tmp_path / "files")
        assert registry.log(record()) != first
        with pytest.raises(RegistryError, match="no model 'a run'"):
            registry.aliases("a run")

    def test_unknown_names_say_what_there_is(self, registry: Registry, bundle: Path) -> None:
        enrol(registry, "known", bundle, record(), "print-1")
        with pytest.raises(RegistryError, match=r"no model 'unknown' .*known"):
            registry.resolve("unknown", CHAMPION)
        with pytest.raises(RegistryError, match="no alias 'champio'; it has: challenger, champion"):
            registry.resolve("known", "champio")
        with pytest.raises(RegistryError, match="no version 9; it has: 1"):
            registry.resolve("known", 9)


class TestInMemory(RegistryContract):
    @pytest.fixture
    def registry(self) -> Registry:
        return InMemoryRegistry()


class TestMLflow(RegistryContract):
    @pytest.fixture
    def registry(self, mlflow_registry: MLflowRegistry) -> Registry:
        return mlflow_registry

    def test_keeps_the_run(self, mlflow_registry: MLflowRegistry, bundle: Path) -> None:
        from mlflow import MlflowClient

        version = enrol(mlflow_registry, "run", bundle, record(origin="tests"), "print-1")
        client = MlflowClient(mlflow_registry.tracking_uri)
        run = client.get_run(version.run_id)
        assert run.info.status == "FINISHED"
        assert run.data.params.keys() == {"model.backbone", "lorecast.ledger"}
        assert run.data.metrics == {"test_auc": 0.75, "valid_auc": 0.7}
        assert run.data.tags["origin"] == "tests"
        history = client.get_metric_history(version.run_id, "valid_auc")
        assert [(point.step, point.value) for point in history] == [(0, 0.6), (1, 0.7)]

    def test_keeps_the_files_of_a_run_without_a_model(
        self, mlflow_registry: MLflowRegistry, tmp_path: Path
    ) -> None:
        from mlflow import MlflowClient

        (tmp_path / "files").mkdir()
        (tmp_path / "files" / "audit.md").write_text("fine")
        run_id = mlflow_registry.log(record(origin="tests"), tmp_path / "files")
        client = MlflowClient(mlflow_registry.tracking_uri)
        run = client.get_run(run_id)
        assert (run.info.status, run.data.metrics["test_auc"]) == ("FINISHED", 0.75)
        assert run.data.tags["origin"] == "tests"
        assert [file.path for file in client.list_artifacts(run_id)] == ["audit.md"]

    def test_keeps_evidence_at_version_and_run(
        self, mlflow_registry: MLflowRegistry, bundle: Path, tmp_path: Path
    ) -> None:
        from mlflow import MlflowClient

        version = enrol(mlflow_registry, "evidence", bundle, record(), "print-1")
        (tmp_path / "files").mkdir()
        (tmp_path / "files" / "evidence.md").write_text("fine")
        mlflow_registry.annotate(version, {"gate": "keep"}, tmp_path / "files", "promotion/1")
        client = MlflowClient(mlflow_registry.tracking_uri)
        assert client.get_model_version("evidence", "1").tags["gate"] == "keep"
        found = client.list_artifacts(version.run_id, "promotion/1")
        assert [file.path for file in found] == ["promotion/1/evidence.md"]

    def test_stores_no_pickle(self, mlflow_registry: MLflowRegistry, bundle: Path) -> None:
        enrol(mlflow_registry, "pickle", bundle, record(), "print-1")
        database = Path(mlflow_registry.tracking_uri.removeprefix("sqlite:///"))
        stored = [path.name for path in database.parent.rglob("*")]
        assert "pyfunc.py" in stored
        assert not [name for name in stored if name.endswith((".pkl", ".pickle", ".pth"))]

    def test_knows_what_it_has(self, mlflow_registry: MLflowRegistry, bundle: Path) -> None:
        version = enrol(mlflow_registry, "knows", bundle, record(), "print-1")
        assert mlflow_registry.knows(version, "print-1")
        assert not mlflow_registry.knows(version, "print-2")


@pytest.mark.bad_input
def test_unreachable_server_is_an_error_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    registry = MLflowRegistry(
        tracking_uri=f"http://someone:secret@127.0.0.1:{port}", experiment="tests"
    )
    started_s = time.monotonic()
    with pytest.raises(RegistryError, match=r"does not answer .*Connection refused") as caught:
        registry.resolve("any", CHAMPION)
    assert time.monotonic() - started_s < 10
    assert "secret" not in str(caught.value)
    assert f"http://127.0.0.1:{port}" in str(caught.value)


@pytest.mark.bad_input
def test_looking_does_not_make_a_store(tmp_path: Path) -> None:
    registry = MLflowRegistry(tracking_uri=f"sqlite:///{tmp_path / 'no.db'}", experiment="tests")
    with pytest.raises(RegistryError, match="no registry here yet"):
        registry.resolve("any", CHAMPION)
    assert registry.find("any", "print-1") is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("models:/films@champion", ("films", "champion")),
        ("models:/films/12", ("films", 12)),
    ],
)
def test_references(text: str, expected: tuple[str, str | int]) -> None:
    assert parse_reference(text) == expected


@pytest.mark.bad_input
@pytest.mark.parametrize("text", ["films", "models:/films", "models:/@a", "models:/films/latest"])
def test_wrong_references_say_the_form(text: str) -> None:
    with pytest.raises(RegistryError, match="models:/NAME@ALIAS"):
        parse_reference(text)
