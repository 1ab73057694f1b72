"""What a submitted command takes along: lorecast's wheel and the experiment file, nothing else.

The wheel is packed from the package as it runs here, installed or a checkout. The same code gives
the same bytes and the same name, so a cluster that has it is not sent it again. It asks for no
dependencies: they are part of the cluster's image.
"""

import base64
import hashlib
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lorecast.config import ExperimentConfig, load_experiment, load_search
from lorecast.config.own_code import is_own
from lorecast.errors import ClusterError, ConfigError

LIMIT_BYTES = 100 << 20
"""Of an upload. The package is a few MB: more than this is something that strayed into it."""
_ROOMS = ("lorecast", "lorecast.jobs", "lorecast.serve")
"""Lie apart in a checkout, in one folder where installed."""
_TIME = (1980, 1, 1, 0, 0, 0)
_PATHS = (
    "path",
    "file",
    "factor_set",
    "groups",
    "model",
    "lora",
    "extractor_from",
    "backbone_from",
)
"""Keys of the experiment, at any depth, whose text may be a file or folder."""


@dataclass(frozen=True)
class Upload:
    """A folder's worth of files that go to the cluster."""

    wheel: Path
    working_dir: Path
    """Holds the experiment file, or nothing."""
    sizes: Mapping[str, int]
    """Bytes of every file, those inside the wheel by themselves and before compression."""

    @property
    def summary(self) -> str:
        """Its size and its largest files."""
        size = megabytes(sum(self.sizes.values()))
        return f"upload: {size} in {len(self.sizes)} files, the largest: {_largest(self.sizes)}"

    def runtime_env(self) -> dict[str, Any]:
        """For Ray."""
        has_files = any(self.working_dir.iterdir())
        return {
            "py_modules": [str(self.wheel)],
            **({"working_dir": str(self.working_dir)} if has_files else {}),
        }


def pack(experiment: Path | None, folder: Path, limit_bytes: int = LIMIT_BYTES) -> Upload:
    """Writes the upload below `folder`. Raises ClusterError naming the largest files if they are
    more than `limit_bytes`."""
    contents = dict(sorted(_package_files()))
    sizes = {name: path.stat().st_size for name, path in contents.items()}
    if experiment is not None:
        sizes[experiment.name] = experiment.stat().st_size
    if (num_bytes := sum(sizes.values())) > limit_bytes:
        raise ClusterError(
            f"the upload has {megabytes(num_bytes)}, more than {megabytes(limit_bytes)}: move data "
            f"out of lorecast's folders; the largest files are {_largest(sizes)}"
        )
    working_dir = folder / "working_dir"
    working_dir.mkdir()
    if experiment is not None:
        shutil.copyfile(experiment, working_dir / experiment.name)
    wheel = folder / _wheel_name(contents)
    _write_wheel(wheel, contents)
    return Upload(wheel, working_dir, sizes)


def check_experiment(words: Sequence[str], *, searched: bool = False) -> list[str]:
    """Warnings about what the cluster will not find, each naming its key.

    `searched`: the experiment holds search spaces.

    Raises ConfigError if the experiment is wrong, or its workspace would be lost with the job.
    """
    config = load_search(words).config if searched else load_experiment(words)
    compute = config.compute
    compute.check_shared("a cluster")
    if not compute.folder.is_absolute():
        raise ConfigError(
            f"compute.workspace is {compute.workspace!r}, which on a cluster lies in the job's own "
            "folder and is deleted with it: name a folder that all nodes see, e.g. "
            "compute.workspace=/mnt/shared/workspace"
        )
    warnings = [
        f"{key} = {text} is on this machine and is not sent along: nodes must see it at the same "
        "place"
        for key, text in _local_paths(config)
    ]
    if config.compute.address not in (None, "auto"):
        warnings.append(
            f"compute.address = {config.compute.address} decides where the job looks for Ray: "
            "leave it out, and it uses the cluster that runs it"
        )
    return warnings


def megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.1f} MB"


def _largest(sizes: Mapping[str, int]) -> str:
    files = sorted(sizes.items(), key=lambda file: -file[1])[:5]
    return ", ".join(f"{name} ({megabytes(size)})" for name, size in files)


def _local_paths(config: ExperimentConfig) -> Iterator[tuple[str, str]]:
    """(key, value) of the experiment's files, folders and own modules that lie on this machine."""
    defaults = dict(_texts(ExperimentConfig().model_dump(mode="json")))
    for key, text in _texts(config.model_dump(mode="json")):
        if is_own(text):
            module = text.partition(":")[0].replace(".", "/")
            is_here = Path(f"{module}.py").exists() or Path(module, "__init__.py").exists()
        else:
            name = next(part for part in reversed(key.split(".")) if not part.isdigit())
            is_mine = name in _PATHS and text != defaults.get(key)
            is_here = is_mine and Path(text).expanduser().exists()
        if is_here:
            yield key, text


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """All texts inside plain values, by dotted key."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, (dict, list)):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        for name, part in parts:
            yield from _texts(part, f"{key}.{name}" if key else str(name))


def _package_files() -> Iterator[tuple[str, Path]]:
    """(name in the wheel, file) of everything in lorecast's folders."""
    for room in _ROOMS:
        spec = find_spec(room)
        assert spec is not None
        assert spec.submodule_search_locations
        (location,) = spec.submodule_search_locations
        for folder, below, names in os.walk(location, followlinks=True):
            below[:] = [name for name in below if name != "__pycache__"]
            for name in names:
                path = Path(folder, name)
                inside = path.relative_to(location).as_posix()
                yield f"{room.replace('.', '/')}/{inside}", path


def _wheel_name(contents: Mapping[str, Path]) -> str:
    """Ray knows a wheel by its name alone, so the name tells the content, as its build tag."""
    digest = hashlib.sha256()
    for name, path in contents.items():
        digest.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    build = f"0{digest.hexdigest()[:16]}"
    return f"lorecast-{distribution('lorecast').version}-{build}-py3-none-any.whl"


def _write_wheel(wheel: Path, contents: Mapping[str, Path]) -> None:
    _, version, build, *_ = wheel.name.split("-")
    info = f"lorecast-{version}.dist-info"
    described = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: lorecast\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: lorecast\nRoot-Is-Purelib: true\n"
        f"Tag: py3-none-any\nBuild: {build}\n",
        f"{info}/entry_points.txt": distribution("lorecast").read_text("entry_points.txt") or "",
    }
    record = []
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:

        def write(name: str, content: bytes) -> None:
            archive.writestr(zipfile.ZipInfo(name, _TIME), content, zipfile.ZIP_DEFLATED)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=")
            record.append(f"{name},sha256={digest.decode()},{len(content)}")

        for name, path in contents.items():
            write(name, path.read_bytes())
        for name, text in described.items():
            write(name, text.encode())
        record.append(f"{info}/RECORD,,")
        listing = "\n".join(record) + "\n"
        archive.writestr(zipfile.ZipInfo(f"{info}/RECORD", _TIME), listing)
