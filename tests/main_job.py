"""The main job as a user runs it: the installed command in a process of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]
COMMAND = str(Path(sys.executable).with_name("lorecast"))


@dataclass(frozen=True)
class Finished:
    """A command that ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stdout.splitlines() if line.startswith("{")]

    def stages(self) -> list[tuple[str, bool]]:
        """(stage, cached) in order."""
        return [(e["stage"], e["cached"]) for e in self.events if e["event"] == "stage"]


def environment() -> dict[str, str]:
    """This process's, without what earlier tests set for MLflow and Ray."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "RAY_"))}
    return {**kept, "HF_HUB_OFFLINE": "1"}


def lorecast(*words: str, cwd: Path, timeout_s: float = 900) -> Finished:
    """Runs `lorecast …` to its end."""
    done = subprocess.run(
        [COMMAND, *words],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def world_run(workspace: Path, *overrides: Sequence[str]) -> list[str]:
    """The words that run the world in `workspace`, with short training."""
    return [
        "run",
        str(REPOSITORY / "configs" / "world.yaml"),
        f"compute.workspace={workspace}",
        "training.epochs=3",
        *map(str, overrides),
        "--json",
    ]
