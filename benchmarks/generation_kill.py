"""Point 2b: SIGKILL of the driver, and of an engine's process, when half is answered."""

import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.generation import (
    ITEMS,
    USERS,
    count_keys,
    generate,
    num_stored,
    start,
    stored,
    write_experiment,
)
from benchmarks.harness import Outcome

BAR = "resume ends with every key once, at most one block paid twice, no manual step"
_FACTORS = ["director", "mood"]
_PROMPTS = 2 * (600 + 2000)
_BLOCK = 256
_ENGINE = "ray::MapWorker(MapBatches(_Asker))"


def measure() -> Outcome:
    with tempfile.TemporaryDirectory(prefix="lorecast-kill-") as name:
        driver = _driver_killed(Path(name) / "driver")
        engine = _engine_killed(Path(name) / "engine")
    results = {"driver": driver, "engine": engine}
    passed = all(
        each["keys_once"] == _PROMPTS and each["keys_twice"] == 0 and each["blocks_paid_twice"] <= 1
        for each in results.values()
    )
    return Outcome(
        figure="; ".join(
            f"{what} killed at {each['stored_at_kill']:,} of {_PROMPTS:,}: {each['keys_once']:,} "
            f"keys once, {each['keys_twice']} twice, {each['blocks_paid_twice']} blocks paid twice"
            for what, each in results.items()
        ),
        passed=passed,
        details=results,
    )


def _experiment(folder: Path) -> Path:
    folder.mkdir()
    fields = [{**field, "factors": _FACTORS} for field in (ITEMS, USERS)]
    compute = {"engines": 1, "threads": 2, "engine_batch": _BLOCK}
    return write_experiment(folder, fields, compute=compute)


def _driver_killed(folder: Path) -> dict[str, Any]:
    experiment = _experiment(folder)
    process = start("generate", str(experiment), log=folder / "killed.log")
    at_kill = _wait_for_half(experiment, process)
    [engine] = filter(_is_engine, psutil.Process(process.pid).children(recursive=True))
    process.kill()
    process.wait()
    left_s = _wait_until_gone(engine)
    at_rest = num_stored(experiment)
    parts = list((folder / "workspace" / "knowledge").glob("part-*.parquet"))
    in_flight = _begun(folder) - len(parts)
    again = generate(experiment)
    return {
        "stored_at_kill": at_kill,
        "stored_after_kill": at_rest,
        "asked_by_resume": again.facts["generated"],
        # Prompts that the dead run had begun and not stored.
        "blocks_paid_twice": in_flight,
        "seconds_until_the_engine_was_gone": round(left_s, 1),
        **count_keys(stored(experiment)),
    }


def _engine_killed(folder: Path) -> dict[str, Any]:
    experiment = _experiment(folder)
    process = start("generate", str(experiment), log=folder / "run.log")
    at_kill = _wait_for_half(experiment, process)
    [engine] = filter(_is_engine, psutil.Process(process.pid).children(recursive=True))
    os.kill(engine.pid, signal.SIGKILL)
    attempts = 0
    while process.poll() is None:
        attempts = max(attempts, _begun(folder))
        time.sleep(0.2)
    if process.returncode:
        raise SystemExit((folder / "run.log").read_text()[-4000:])
    return {
        "stored_at_kill": at_kill,
        "blocks_begun": attempts,
        "blocks_paid_twice": attempts - -(-_PROMPTS // _BLOCK),
        **count_keys(stored(experiment)),
    }


def _is_engine(process: psutil.Process) -> bool:
    return "".join(process.cmdline()[:1]).startswith(_ENGINE)


def _begun(folder: Path) -> int:
    """Blocks that an engine began, each attempt counted."""
    marks = (folder / "workspace" / "generate").glob("*/prompts/*/*.attempts")
    return sum(mark.stat().st_size for mark in marks)


def _wait_for_half(experiment: Path, process: "subprocess.Popen[bytes]") -> int:
    while (count := num_stored(experiment)) < _PROMPTS // 2:
        if process.poll() is not None:
            raise SystemExit("the run ended before it was killed")
        time.sleep(0.1)
    return count


def _wait_until_gone(process: psutil.Process, timeout_s: float = 60) -> float:
    started_s = time.monotonic()
    process.wait(timeout=timeout_s)
    return time.monotonic() - started_s
