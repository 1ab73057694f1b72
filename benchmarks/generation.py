"""What the points of generation share: `lorecast generate` as a process, and the store it fills."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

LORECAST = str(Path(sys.executable).with_name("lorecast"))
ITEMS: Mapping[str, Any] = {"kind": "generate", "name": "item_facts", "side": "item"}
USERS: Mapping[str, Any] = {"kind": "generate", "name": "user_preference", "side": "user"}


def write_experiment(
    folder: Path, fields: Sequence[Mapping[str, Any]], **sections: Mapping[str, Any]
) -> Path:
    """An experiment file for the world, with its workspace below `folder`."""
    compute = {"workspace": str(folder / "workspace"), **sections.pop("compute", {})}
    knowledge = {"fields": [dict(field) for field in fields], **sections.pop("knowledge", {})}
    experiment = {"name": "world", "knowledge": knowledge, "compute": compute, **sections}
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(experiment))
    return path


@dataclass(frozen=True)
class Generated:
    """What `lorecast generate` came to."""

    facts: Mapping[str, Any]
    keys: tuple[str, ...]
    """Of knowledge.parquet."""


def start(command: str, *words: str, log: Path) -> "subprocess.Popen[bytes]":
    """Starts `lorecast COMMAND …` in a process group of its own; its output goes to `log`."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "RAY_"))}
    with log.open("wb") as stream:
        return subprocess.Popen(
            [LORECAST, command, *words],
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**kept, "HF_HUB_OFFLINE": "1"},
            start_new_session=True,
        )


def run(command: str, *words: str, log: Path) -> None:
    """Runs `lorecast COMMAND …` to its end; ends the benchmark if it fails."""
    if start(command, *words, log=log).wait():
        raise SystemExit(f"lorecast {command} failed:\n{log.read_text()[-4000:]}")


def generate(experiment: Path, *words: str) -> Generated:
    """Runs the stage and reads what it made."""
    before = set(_artifacts(experiment))
    run("generate", str(experiment), *words, log=experiment.with_suffix(".log"))
    made = sorted(set(_artifacts(experiment)) - before) or sorted(
        before, key=lambda path: path.stat().st_mtime
    )
    manifest = json.loads(made[-1].read_text())
    table = pq.read_table(made[-1].with_name("knowledge.parquet"), columns=["key"])
    return Generated(manifest["facts"], tuple(table["key"].to_pylist()))


def stored(experiment: Path) -> pa.Table:
    """All rows of the store."""
    parts = sorted((_workspace(experiment) / "knowledge").glob("part-*.parquet"))
    return pa.concat_tables([pq.read_table(part) for part in parts])


def count_keys(rows: pa.Table) -> dict[str, int]:
    """How many keys are stored, answered once, and answered more often."""
    answered = Counter(
        key
        for key, status in zip(rows["key"].to_pylist(), rows["status"].to_pylist(), strict=True)
        if status not in ("failed", "too_long")
    )
    return {
        "rows": rows.num_rows,
        "keys_once": sum(count == 1 for count in answered.values()),
        "keys_twice": sum(count > 1 for count in answered.values()),
    }


def num_stored(experiment: Path) -> int:
    """Rows of the store at this moment."""
    parts = (_workspace(experiment) / "knowledge").glob("part-*.parquet")
    return sum(pq.read_metadata(part).num_rows for part in parts)


def _workspace(experiment: Path) -> Path:
    return Path(yaml.safe_load(experiment.read_text())["compute"]["workspace"])


def _artifacts(experiment: Path) -> list[Path]:
    return list((_workspace(experiment) / "generate").glob("*/manifest.json"))
