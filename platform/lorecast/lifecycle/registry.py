"""Where runs and model versions are kept: a small protocol, the rule of aliases, a twin in memory.

A version is one bundle under a model's name, numbered from 1 and never changed. Aliases point at
versions and move: `challenger` is the latest, `champion` the one that serves, `previous` the one
that a rollback goes back to. The last two follow the history, see `history`. Whoever loads a model
resolves the alias to a number once and loads by number.
"""

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from lorecast.config import ExperimentConfig, TrainingProtocol
from lorecast.errors import RegistryError
from lorecast.training.recipe import CHOSEN_ON_TEST

CHALLENGER = "challenger"
CHAMPION = "champion"
PREVIOUS = "previous"
_NAME = re.compile(r"\w[\w .-]*")


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What is kept of a training, beside its bundle, or of other work, beside its files."""

    name: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    curves: Sequence[Mapping[str, float]]
    """Metrics of each epoch, in order."""
    tags: Mapping[str, str]
    plots: Sequence[Path]
    parent: str | None = None
    """Id of the run that it is a part of."""


@dataclass(frozen=True, kw_only=True)
class ModelVersion:
    """One registered bundle."""

    model: str
    number: int
    run_id: str
    aliases: tuple[str, ...] = ()
    """Those that point at it now, in name order."""

    def __post_init__(self) -> None:
        # Both come from a server and name folders here.
        for kind, name in (("model", self.model), ("run", self.run_id)):
            if not _NAME.fullmatch(name):
                raise RegistryError(
                    f"the registry calls a {kind} {name[:50]!r}: a name is made of letters, "
                    "digits, spaces and . _ -, and begins with a letter, a digit or _"
                )

    def __str__(self) -> str:
        return f"{self.model}/{self.number}"


class Registry(Protocol):
    """A store of runs and versions. Every method raises RegistryError if it cannot answer."""

    @property
    def uri(self) -> str:
        """Its address, free of credentials."""

    def find(self, model: str, fingerprint: str) -> ModelVersion | None:
        """The version sealed with `fingerprint`, if there is one."""

    def add(self, model: str, bundle: Path, run: RunRecord) -> ModelVersion:
        """Logs the run and stores the folder `bundle` as the next version of `model`."""

    def log(self, run: RunRecord, files: Path | None = None) -> str:
        """Logs a run without a model, with the contents of the folder `files`; returns its id."""

    def aliases(self, model: str) -> Mapping[str, int]:
        """Alias to version number."""

    def set_alias(self, version: ModelVersion, alias: str) -> None:
        """Points `alias` at `version`, away from wherever it pointed."""

    def drop_alias(self, model: str, alias: str) -> None:
        """Removes `alias`, if there is one."""

    def records(self, model: str) -> Sequence[str]:
        """The model's history: what `append` has kept, in order."""

    def append(self, model: str, place: int, record: str) -> bool:
        """Keeps `record` at this place of the history, for good; False if another stands there.

        Atomic: of several that append at one place, one succeeds. `place` counts from 0, and all
        before it are taken. `record` differs from every other one and has at most 4,000 characters.
        """

    def annotate(
        self, version: ModelVersion, tags: Mapping[str, str], files: Path, name: str
    ) -> None:
        """Sets tags of a version, and keeps the folder `files` as `name` beside its run."""

    def seal(self, version: ModelVersion, fingerprint: str) -> None:
        """Marks `version` complete; from now on `find` knows it."""

    def resolve(self, model: str, selector: str | int) -> ModelVersion:
        """The version with this number, or the one this alias points at."""

    def download(self, version: ModelVersion, folder: Path) -> None:
        """Copies the version's bundle to `folder`, which must not exist."""

    def download_run(self, run_id: str, folder: Path) -> None:
        """As `download`, of the bundle that a run logged."""


def model_name(config: ExperimentConfig) -> str:
    """The registered model of an experiment."""
    return config.registry.model_name.replace("{name}", config.name)


def check_protocol(protocol: TrainingProtocol) -> None:
    """Raises RegistryError for a protocol whose models are for comparison only."""
    if protocol == "kar":
        raise RegistryError(
            f"training.protocol is 'kar', whose models are {CHOSEN_ON_TEST}: none is registered; "
            "`lorecast train`, `evaluate` and `report` give their figures, and "
            "training.protocol=honest gives models to register"
        )


def parse_reference(text: str) -> tuple[str, str | int]:
    """(model, alias or number) of `models:/NAME@ALIAS` or `models:/NAME/NUMBER`."""
    scheme, _, path = text.partition(":/")
    model, at, alias = path.partition("@")
    if scheme == "models" and at and model and alias:
        return model, alias
    model, _, number = path.rpartition("/")
    if scheme == "models" and model and number.isdecimal():
        return model, int(number)
    raise RegistryError(
        f"{text!r} names no model version: write models:/NAME@ALIAS or models:/NAME/NUMBER"
    )


def champion_of(config: ExperimentConfig) -> str:
    """The reference to an experiment's champion."""
    return f"models:/{model_name(config)}@{CHAMPION}"


def fetch(registry: Registry, reference: str, workspace: Path) -> tuple[Path, str]:
    """(bundle folder, NAME/NUMBER): the alias is resolved once, then the number is loaded."""
    version = registry.resolve(*parse_reference(reference))
    name = f"{version.model}-{version.number}-{version.run_id[:8]}"
    folder = workspace / "serve" / name
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        registry.download(version, folder)
    return folder, str(version)


def unknown_model(uri: str, model: str, known: Sequence[str]) -> RegistryError:
    """The error for a name that `uri` does not have."""
    names = f"there are: {', '.join(sorted(known))}" if known else "it has none yet"
    return RegistryError(f"no model {model!r} in {uri}; {names}; `lorecast run` registers one")


def unknown_version(model: str, selector: str | int, known: Sequence[str | int]) -> RegistryError:
    """The error for an alias or number that `model` does not have."""
    kind = "version" if isinstance(selector, int) else "alias"
    names = ", ".join(str(name) for name in sorted(known)) or "none"
    return RegistryError(f"model {model!r} has no {kind} {selector!r}; it has: {names}")


@dataclass(kw_only=True)
class _Stored:
    version: ModelVersion
    bundle: Path
    run: RunRecord
    fingerprint: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)


@dataclass
class InMemoryRegistry:
    """A registry that lives as long as the process; bundles stay where they are."""

    uri: str = "memory"
    _models: dict[str, list[_Stored]] = field(default_factory=dict)
    _aliases: dict[str, dict[str, int]] = field(default_factory=dict)
    _records: dict[str, list[str]] = field(default_factory=dict)
    _logged: list[tuple[RunRecord, Path | None]] = field(default_factory=list)

    def find(self, model: str, fingerprint: str) -> ModelVersion | None:
        for stored in self._models.get(model, []):
            if stored.fingerprint == fingerprint:
                return self.resolve(model, stored.version.number)
        return None

    def add(self, model: str, bundle: Path, run: RunRecord) -> ModelVersion:
        versions = self._models.setdefault(model, [])
        number = len(versions) + 1
        version = ModelVersion(model=model, number=number, run_id=f"{model}-{number}")
        versions.append(_Stored(version=version, bundle=bundle, run=run))
        return version

    def log(self, run: RunRecord, files: Path | None = None) -> str:
        self._logged.append((run, files))
        return f"run-{len(self._logged)}"

    def aliases(self, model: str) -> Mapping[str, int]:
        if model not in self._models:
            raise unknown_model(self.uri, model, list(self._models))
        return dict(self._aliases.get(model, {}))

    def set_alias(self, version: ModelVersion, alias: str) -> None:
        self._aliases.setdefault(version.model, {})[alias] = version.number

    def drop_alias(self, model: str, alias: str) -> None:
        self._aliases.get(model, {}).pop(alias, None)

    def records(self, model: str) -> Sequence[str]:
        return tuple(self._records.get(model, ()))

    def append(self, model: str, place: int, record: str) -> bool:
        records = self._records.setdefault(model, [])
        if place == len(records):
            records.append(record)
        return records[place] == record

    def annotate(
        self, version: ModelVersion, tags: Mapping[str, str], files: Path, name: str
    ) -> None:
        stored = self._stored(version.model, version.number)
        stored.tags.update(tags)
        stored.files[name] = files

    def seal(self, version: ModelVersion, fingerprint: str) -> None:
        self._stored(version.model, version.number).fingerprint = fingerprint

    def resolve(self, model: str, selector: str | int) -> ModelVersion:
        aliases = self.aliases(model)
        if isinstance(selector, str) and selector not in aliases:
            raise unknown_version(model, selector, list(aliases))
        number = aliases[selector] if isinstance(selector, str) else selector
        names = sorted(alias for alias, target in aliases.items() if target == number)
        return replace(self._stored(model, number).version, aliases=tuple(names))

    def download(self, version: ModelVersion, folder: Path) -> None:
        shutil.copytree(self._stored(version.model, version.number).bundle, folder)

    def download_run(self, run_id: str, folder: Path) -> None:
        bundles = {
            stored.version.run_id: stored.bundle
            for versions in self._models.values()
            for stored in versions
        }
        if run_id not in bundles:
            raise RegistryError(f"run {run_id} in {self.uri} holds no bundle of lorecast")
        shutil.copytree(bundles[run_id], folder)

    def _stored(self, model: str, number: int) -> _Stored:
        versions = self._models[model]
        if not 1 <= number <= len(versions):
            raise unknown_version(model, number, range(1, len(versions) + 1))
        return versions[number - 1]
