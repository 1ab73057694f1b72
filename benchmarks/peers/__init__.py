"""Other people's programs that we race: where they are, what they are, how they are run.

None of their code is here; see README.md for what each environment variable must name. Drivers of
this folder run in the peers' interpreter and know nothing of lorecast.
"""

import hashlib
import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lorecast.errors import InputError

FUXICTR = "LORECAST_FUXICTR"
KAR = "LORECAST_KAR"
PYTHON = "LORECAST_PEERS_PYTHON"
_HERE = Path(__file__).parent
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
_SHOWN_CHARACTERS = 4000
_DISTRIBUTIONS = ("torch", "numpy", "pandas", "scikit-learn", "polars", "pyarrow")
_ASK_VERSIONS = f"""
import json, platform
from importlib.metadata import version
print(json.dumps({{"python": platform.python_version(),
                  **{{name: version(name) for name in {_DISTRIBUTIONS}}}}}))
"""


def checkout(variable: str) -> Path:
    """The folder of a peer's source. Raises InputError if the variable names none."""
    folder = Path(_value(variable))
    if not folder.is_dir():
        raise InputError(
            f"{variable}: {folder} is no folder; benchmarks/peers/README.md tells more"
        )
    return folder.resolve()


def identity(folder: Path) -> dict[str, str | None]:
    """The commit of a checkout, from git or its file COMMIT, and a hash over its Python files."""
    commit = None
    if (folder / ".git").exists():
        asked = ["git", "-C", str(folder), "rev-parse", "HEAD"]
        commit = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()
    elif (folder / "COMMIT").exists():
        commit = (folder / "COMMIT").read_text().strip()
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        digest.update(file.relative_to(folder).as_posix().encode() + b"\0" + file.read_bytes())
    return {"commit": commit, "python_files_sha256": digest.hexdigest()}


def versions() -> dict[str, str]:
    """What the peers' interpreter has."""
    found: dict[str, str] = json.loads(run(["-c", _ASK_VERSIONS]))
    return found


def drive(driver: str, folder: Path, job: Any) -> Any:
    """What a driver of this folder prints last, for a checkout and a job, both ways as JSON."""
    return json.loads(run([str(_HERE / driver), str(folder), json.dumps(job)]).splitlines()[-1])


def run(arguments: Sequence[str], cwd: Path | None = None, path: str | None = None) -> str:
    """What the peers' interpreter prints, with one thread and without a GPU; `path` is where it
    finds further modules.

    Raises InputError if its variable names no program, RuntimeError with what it said if it fails.
    """
    python = _value(PYTHON)
    if not os.access(python, os.X_OK):
        raise InputError(f"{PYTHON}: {python} cannot be run; see benchmarks/peers/README.md")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | _ONE_THREAD
    if path is not None:
        environment["PYTHONPATH"] = path
    done = subprocess.run(
        [python, *arguments],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the peer failed: {(done.stdout + done.stderr)[-_SHOWN_CHARACTERS:]}")
    return done.stdout


def _value(variable: str) -> str:
    try:
        return os.environ[variable]
    except KeyError:
        raise InputError(
            f"set {variable}: benchmarks/peers/README.md says what it must name"
        ) from None
