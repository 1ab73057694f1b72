"""A workspace on object storage: what is finished lies there, every machine works on a copy.

    s3://BUCKET/PREFIX/train/world-1a2b3c4d/…              the twin
    CACHE/s3:/BUCKET/PREFIX/train/world-1a2b3c4d/…         its copy on this machine

A path with a part `s3:` has a twin; for every other path nothing here does anything. Endpoint,
region and credentials come from AWS's own variables, files and roles, never from the experiment.
"""

import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, Final, Self

from lorecast.errors import ArtifactError

_SCHEME: Final = "s3://"
_MARK: Final = "s3:"
_CACHE: Final = "~/.cache/lorecast"
_ENDPOINTS: Final = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_TRIES: Final = 6
_THREADS: Final = 16
_PIECE_BYTES: Final = 8 << 20
_PLACE: Final = re.compile(r"s3://[a-z0-9][a-z0-9.-]+(/(?!\.+(/|$))[^/?#@]+)*/?")
_REASON: Final = re.compile(r"AWS Error (\w+)(?: \([^)]*\))? during (\w+) operation")


def is_remote(workspace: str) -> bool:
    """Whether a workspace lies on object storage. Raises ValueError for one that cannot be."""
    if "://" not in workspace:
        return False
    if not _PLACE.fullmatch(workspace):
        raise ValueError(
            "takes a folder or s3://BUCKET/PREFIX, with no keys or options in it: these come from "
            "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and AWS_ENDPOINT_URL"
        )
    return True


def local_folder(workspace: str, cache_folder: str | None) -> Path:
    """Where a workspace lies on this machine: itself, or its copy below `cache_folder`."""
    if not is_remote(workspace):
        return Path(workspace)
    place = workspace.removeprefix(_SCHEME).rstrip("/")
    return Path(cache_folder or _CACHE).expanduser().absolute() / _MARK / place


@dataclass(frozen=True)
class Twin:
    """A place on object storage. All that asks it raises ArtifactError if it does not answer."""

    key: str
    """BUCKET/PREFIX/…"""

    @classmethod
    def of(cls, path: Path) -> Self | None:
        """What `path` is the copy of; none: it stands for itself."""
        parts = path.absolute().parts
        return cls("/".join(parts[parts.index(_MARK) + 1 :])) if _MARK in parts else None

    def __truediv__(self, name: str) -> "Twin":
        return Twin(f"{self.key}/{name}")

    def __str__(self) -> str:
        return _SCHEME + self.key

    def read(self) -> bytes | None:
        """The object's bytes; none if there is no such object."""
        with self._storage() as storage:
            try:
                with storage.open_input_file(self.key) as stream:
                    content: bytes = stream.read()
                    return content
            except FileNotFoundError:
                return None

    def write(self, content: bytes) -> None:
        """Replaces the object at once."""
        with self._storage() as storage, storage.open_output_stream(self.key) as stream:
            stream.write(content)

    def put(self, path: Path) -> None:
        """Replaces the object by a file's content; what may be read meanwhile is not it."""
        with (
            self._storage() as storage,
            path.open("rb") as source,
            storage.open_output_stream(self.key) as stream,
        ):
            shutil.copyfileobj(source, stream, _PIECE_BYTES)

    def get(self, path: Path) -> None:
        """Copies the object to a file, which appears whole."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        with self._storage() as storage:
            with storage.open_input_file(self.key) as source, partial.open("wb") as stream:
                shutil.copyfileobj(source, stream, _PIECE_BYTES)
            partial.replace(path)

    def delete(self) -> None:
        """Deletes the object, if there is one."""
        with self._storage() as storage:
            try:
                storage.delete_file(self.key)
            except FileNotFoundError:
                return

    def names(self) -> list[str]:
        """What lies directly below: objects and folders."""
        from pyarrow.fs import FileSelector

        with self._storage() as storage:
            found = storage.get_file_info(FileSelector(self.key, allow_not_found=True))
        return [PurePosixPath(info.path).name for info in found]

    @contextmanager
    def _storage(self) -> Iterator[Any]:
        endpoint = next(filter(None, map(os.environ.get, _ENDPOINTS)), None)
        bucket = self.key.partition("/")[0]
        try:
            yield _open(bucket, endpoint)
        except OSError as error:
            told = _REASON.search(str(error))
            reason = f"{told[1]} in {told[2]}" if told else str(error).split("\n")[0]
            raise ArtifactError(
                f"{self}: {reason}; see to the bucket, the connection and AWS's variables "
                "(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL), then "
                "run again: what is finished on this machine is kept, and copied there"
            ) from None


@cache
def _open(bucket: str, endpoint: str | None) -> Any:
    from pyarrow.fs import AwsStandardS3RetryStrategy, FileType, S3FileSystem

    # A small object is then one request, which succeeds or does nothing.
    storage = S3FileSystem(
        endpoint_override=endpoint,
        allow_delayed_open=True,
        retry_strategy=AwsStandardS3RetryStrategy(max_attempts=_TRIES),
    )
    if storage.get_file_info(bucket).type is FileType.NotFound:
        raise OSError("there is no such bucket")
    return storage


def upload(path: Path) -> None:
    """Copies a file, which is small or whose readers check it, to its twin."""
    if (twin := Twin.of(path)) is not None:
        twin.put(path)


def fetch(path: Path) -> bool:
    """Whether a file is there: on this machine, or from now on as a copy of its twin."""
    twin = Twin.of(path)
    if twin is None or path.exists():
        return path.exists()
    if path.name not in (Twin.of(path.parent) or twin).names():
        return False
    twin.get(path)
    return True


def listed(folder: Path, pattern: str) -> list[Path]:
    """What lies in `folder` or its twin and matches."""
    twin = Twin.of(folder)
    there = [folder / name for name in twin.names()] if twin else []
    return sorted({*folder.glob(pattern), *(path for path in there if path.match(pattern))})


def discard(path: Path) -> None:
    """Deletes a file and its twin, if they are there."""
    path.unlink(missing_ok=True)
    if (twin := Twin.of(path)) is not None:
        twin.delete()


def share(folder: Path, pattern: str) -> None:
    """Files of `folder` and its twin whose names match: each side gets what it lacks.

    For files that appear whole, never change and never go.
    """
    if (twin := Twin.of(folder)) is None:
        return
    here = {path.name for path in folder.glob(pattern)}
    there = {name for name in twin.names() if PurePosixPath(name).match(pattern)}
    _each(lambda name: (twin / name).put(folder / name), sorted(here - there))
    _each(lambda name: (twin / name).get(folder / name), sorted(there - here))


def push(folder: Path, twin: Twin, but: str) -> dict[str, Any]:
    """Copies all files below `folder` except one; returns what `pull` needs to get them again.

    They go to a new place below the twin, so that machines that make the same thing at the same
    time do not mix theirs.
    """
    place = uuid.uuid4().hex[:8]
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    files = {name: path for name, path in files.items() if path.is_file() and name != but}
    _each(lambda name: (twin / place / name).put(files[name]), sorted(files))
    return {"folder": place, "files": {name: _digest(path) for name, path in files.items()}}


def pull(stored: Mapping[str, Any], twin: Twin, folder: Path) -> None:
    """Makes `folder` what was pushed. Raises ArtifactError for a file that is not what it was."""

    def get(name: str) -> None:
        source = twin / stored["folder"] / name
        source.get(folder / name)
        if _digest(folder / name) != stored["files"][name]:
            raise ArtifactError(
                f"{source} is not what was written; delete {twin} and run its stage again"
            )

    _each(get, sorted(stored["files"]))


def _each(act: Callable[[str], None], names: Sequence[str]) -> None:
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(act, names))


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
