"""The registry in MLflow: SQLite in the workspace by default, any tracking server otherwise.

MLflow is imported when it is first needed (seconds), told to be quiet, and kept from waiting: a
server that does not answer is an error within seconds, not minutes. Credentials (in the address or
in MLFLOW_TRACKING_*) never reach a message.
"""

import json
import os
import socket
import sqlite3
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import lorecast
from lorecast.config import ExperimentConfig
from lorecast.errors import RegistryError
from lorecast.lifecycle import mlflow_ledger
from lorecast.lifecycle.registry import ModelVersion, RunRecord, unknown_model, unknown_version

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import RunInfo

_MODEL_CODE = Path(__file__).with_name("pyfunc.py")
_MODEL, _BUNDLE = "model", "bundle"
_SEAL = "lorecast.fingerprint"
_PARENT = "mlflow.parentRunId"
"""MLflow's own tag, by which its pages nest runs."""
_ARTIFACTS = "mlartifacts"
"""Folder of a new experiment's files beside a SQLite store; a server has a place of its own."""
_CONNECT_TIMEOUT_S = 5.0
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}
"""Ours unless the user set them."""
_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
_MAX_PARAMS, _MAX_METRICS = 100, 1000
"""MLflow's limits of one request."""


def open_registry(config: ExperimentConfig) -> "MLflowRegistry":
    """The experiment's registry; nothing is contacted yet.

    Raises RegistryError if none is named and the workspace is no folder that could hold one.
    """
    workspace = config.compute.folder.absolute()
    uri = config.registry.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    if not uri and config.compute.is_remote:
        raise RegistryError(
            f"compute.workspace is {config.compute.workspace}, where MLflow's SQLite file cannot "
            "lie: name a tracking server in registry.tracking_uri or MLFLOW_TRACKING_URI"
        )
    return MLflowRegistry(
        tracking_uri=uri or f"sqlite:///{workspace / 'mlflow.db'}",
        experiment=config.registry.experiment,
    )


@dataclass(frozen=True, kw_only=True)
class MLflowRegistry:
    """A `Registry` in MLflow."""

    tracking_uri: str = field(repr=False)
    experiment: str

    @property
    def uri(self) -> str:
        return _without_credentials(self.tracking_uri)

    def check(self) -> None:
        """Raises RegistryError if a server does not answer: within seconds, and without importing
        MLflow, which would retry for minutes."""
        address = urlsplit(self.tracking_uri)
        port = address.port or _PORTS.get(address.scheme.partition("+")[0])
        if not address.hostname or port is None:
            return
        try:
            socket.create_connection((address.hostname, port), _CONNECT_TIMEOUT_S).close()
        except OSError as error:
            raise RegistryError(
                f"MLflow at {self.uri} does not answer ({error.strerror or error}): start it, or "
                "name another in registry.tracking_uri or MLFLOW_TRACKING_URI"
            ) from None

    def find(self, model: str, fingerprint: str) -> ModelVersion | None:
        database = self._database()
        if database is not None:
            sealed = _sealed(database, model, fingerprint)
            return None if sealed is None else self.resolve(model, sealed[0])
        with self._client() as client:
            query = f"name = '{model}' and tag.`{_SEAL}` = '{fingerprint}'"
            found = client.search_model_versions(query, max_results=1)
            return self._version(client, model, int(found[0].version)) if found else None

    def knows(self, version: ModelVersion, fingerprint: str) -> bool:
        """Whether `version` is there and sealed so; with SQLite, without MLflow's slow import."""
        database = self._database()
        if database is not None:
            return _sealed(database, version.model, fingerprint) == (version.number, version.run_id)
        found = self.find(version.model, fingerprint)
        return found is not None and (found.number, found.run_id) == (
            version.number,
            version.run_id,
        )

    def add(self, model: str, bundle: Path, run: RunRecord) -> ModelVersion:
        with self._run(run) as (client, info):
            with tempfile.TemporaryDirectory(prefix="lorecast-") as scratch:
                folder = _save_model(Path(scratch), bundle)
                client.log_artifacts(info.run_id, str(folder), _MODEL)
            if not client.search_registered_models(f"name = '{model}'"):
                client.create_registered_model(model)
            created = client.create_model_version(
                model, f"{info.artifact_uri}/{_MODEL}", info.run_id, tags=dict(run.tags)
            )
        return ModelVersion(model=model, number=int(created.version), run_id=info.run_id)

    def log(self, run: RunRecord, files: Path | None = None) -> str:
        with self._run(run) as (client, info):
            if files is not None:
                client.log_artifacts(info.run_id, str(files))
        return str(info.run_id)

    def aliases(self, model: str) -> Mapping[str, int]:
        with self._client() as client:
            return self._aliases(client, model)

    def set_alias(self, version: ModelVersion, alias: str) -> None:
        with self._client() as client:
            client.set_registered_model_alias(version.model, alias, str(version.number))

    def drop_alias(self, model: str, alias: str) -> None:
        with self._client() as client:
            client.delete_registered_model_alias(model, alias)

    def records(self, model: str) -> Sequence[str]:
        with self._client() as client:
            self._aliases(client, model)
            return mlflow_ledger.records(client, model)

    def append(self, model: str, place: int, record: str) -> bool:
        with self._client() as client:
            experiment_id = self._experiment_id(client)
            return mlflow_ledger.append(client, model, place, record, experiment_id)

    def annotate(
        self, version: ModelVersion, tags: Mapping[str, str], files: Path, name: str
    ) -> None:
        with self._client() as client:
            client.log_artifacts(version.run_id, str(files), name)
            for key, value in tags.items():
                client.set_model_version_tag(version.model, str(version.number), key, value)

    def seal(self, version: ModelVersion, fingerprint: str) -> None:
        with self._client() as client:
            client.set_model_version_tag(version.model, str(version.number), _SEAL, fingerprint)

    def resolve(self, model: str, selector: str | int) -> ModelVersion:
        with self._client() as client:
            if isinstance(selector, int):
                return self._version(client, model, selector)
            aliases = self._aliases(client, model)
            if selector not in aliases:
                raise unknown_version(model, selector, list(aliases))
            return self._version(client, model, aliases[selector])

    def download(self, version: ModelVersion, folder: Path) -> None:
        with self._client() as client:
            source = client.get_model_version_download_uri(version.model, str(version.number))
            self._fetch(source, str(version), folder)

    def download_run(self, run_id: str, folder: Path) -> None:
        with self._client() as client:
            client.get_run(run_id)
            self._fetch(f"runs:/{run_id}/{_MODEL}", f"run {run_id}", folder)

    def _fetch(self, model_uri: str, name: str, folder: Path) -> None:
        """Copies the bundle in an MLflow model to `folder`."""
        from mlflow.artifacts import download_artifacts

        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            fetched = download_artifacts(
                artifact_uri=f"{model_uri}/artifacts",
                dst_path=scratch,
                tracking_uri=self.tracking_uri,
            )
            bundles = list(Path(fetched).iterdir())
            if len(bundles) != 1:
                raise RegistryError(f"{name} in {self.uri} holds no bundle of lorecast")
            bundles[0].rename(folder)

    def _version(self, client: "MlflowClient", model: str, number: int) -> ModelVersion:
        aliases = self._aliases(client, model)
        found = client.search_model_versions(f"name = '{model}'")
        runs = {int(version.version): version.run_id for version in found}
        if number not in runs:
            raise unknown_version(model, number, list(runs))
        names = sorted(alias for alias, target in aliases.items() if target == number)
        return ModelVersion(model=model, number=number, run_id=runs[number], aliases=tuple(names))

    def _aliases(self, client: "MlflowClient", model: str) -> dict[str, int]:
        found = client.search_registered_models(f"name = '{model}'")
        if not found:
            known = [registered.name for registered in client.search_registered_models()]
            raise unknown_model(self.uri, model, known)
        return {alias: int(number) for alias, number in found[0].aliases.items()}

    def _experiment_id(self, client: "MlflowClient") -> str:
        known = client.get_experiment_by_name(self.experiment)
        if known is not None:
            return str(known.experiment_id)
        database = self._database()
        location = None if database is None else (database.parent / _ARTIFACTS).as_uri()
        return str(client.create_experiment(self.experiment, artifact_location=location))

    def _database(self) -> Path | None:
        """The file of a SQLite store; none if it is something else."""
        scheme, _, path = self.tracking_uri.partition("?")[0].partition(":///")
        return Path(path).absolute() if scheme == "sqlite" else None

    @contextmanager
    def _run(self, run: RunRecord) -> Iterator[tuple["MlflowClient", "RunInfo"]]:
        """A new run that holds `run`; it ends with the block, FAILED on an error."""
        if (database := self._database()) is not None:
            database.parent.mkdir(parents=True, exist_ok=True)
        tags = {**run.tags, **({_PARENT: run.parent} if run.parent else {})}
        with self._client(create=True) as client:
            info = client.create_run(self._experiment_id(client), run_name=run.name, tags=tags).info
            try:
                _log(client, info.run_id, run)
                yield client, info
            except BaseException:
                client.set_terminated(info.run_id, "FAILED")
                raise
            client.set_terminated(info.run_id)

    @contextmanager
    def _client(self, *, create: bool = False) -> Iterator["MlflowClient"]:
        """MLflow's client; what goes wrong inside becomes a RegistryError.

        Without `create` a SQLite store must exist: MLflow would make one by merely looking.
        """
        database = self._database()
        if database is not None and not create and not database.exists():
            raise RegistryError(f"{database}: no registry here yet; `lorecast run` makes one")
        self.check()
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import mlflow
            from mlflow.exceptions import MlflowException
            from sqlalchemy.exc import SQLAlchemyError

            try:
                yield mlflow.MlflowClient(self.tracking_uri, self.tracking_uri)
            except (MlflowException, SQLAlchemyError, OSError) as error:
                reason = _redact(str(error), self.tracking_uri).strip().split("\n")[0]
                raise RegistryError(f"MLflow at {self.uri}: {reason}") from None


def _log(client: "MlflowClient", run_id: str, run: RunRecord) -> None:
    from mlflow.entities import Metric, Param

    now_ms = int(time.time() * 1000)
    params = [Param(key, value) for key, value in run.params.items()]
    metrics = [Metric(key, value, now_ms, 0) for key, value in run.metrics.items()]
    for epoch, figures in enumerate(run.curves):
        metrics += [Metric(key, value, now_ms, epoch) for key, value in figures.items()]
    for chunk in _chunks(params, _MAX_PARAMS):
        client.log_batch(run_id, params=chunk)
    for chunk in _chunks(metrics, _MAX_METRICS):
        client.log_batch(run_id, metrics=chunk)
    for plot in run.plots:
        client.log_artifact(run_id, str(plot), "plots")


def _chunks(values: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (values[start : start + size] for start in range(0, len(values), size))


def _save_model(folder: Path, bundle: Path) -> Path:
    """The bundle as an MLflow model: our code by file, no pickle."""
    from mlflow.models import ModelSignature
    from mlflow.pyfunc import save_model
    from mlflow.types import ColSpec, Schema

    card = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))
    contexts = [ColSpec("string", name, required=False) for name in card["contexts"]]
    target = folder / _MODEL
    save_model(
        path=str(target),
        python_model=str(_MODEL_CODE),
        artifacts={_BUNDLE: str(bundle)},
        pip_requirements=[f"lorecast=={lorecast.__version__}"],
        signature=ModelSignature(
            Schema([ColSpec("string", "user_id"), ColSpec("string", "item_id"), *contexts]),
            Schema([ColSpec("float", "score")]),
        ),
    )
    return target


def _sealed(database: Path, model: str, fingerprint: str) -> tuple[int, str] | None:
    """(version, run id) from MLflow's own tables, read directly."""
    if not database.exists():
        return None
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        try:
            found: tuple[int, str] | None = connection.execute(
                "SELECT version, run_id FROM model_versions JOIN model_version_tags"
                " USING (name, version) WHERE name = ? AND key = ? AND value = ?",
                (model, _SEAL, fingerprint),
            ).fetchone()
        except sqlite3.DatabaseError:  # an empty or damaged file, on which MLflow has more to say
            return None
    return found


def _without_credentials(uri: str) -> str:
    address = urlsplit(uri)
    if address.username is None and address.password is None:
        return uri
    return address._replace(netloc=address.netloc.rpartition("@")[2]).geturl()


def _redact(text: str, uri: str) -> str:
    secrets = [os.environ.get(f"MLFLOW_TRACKING_{name}") for name in ("TOKEN", "PASSWORD")]
    secrets.append(urlsplit(uri).password)
    text = text.replace(uri, _without_credentials(uri))
    for secret in filter(None, secrets):
        text = text.replace(secret, "***")
    return text
