"""Point 1a: a fresh clone with an empty environment: `make demo`, again, `make test`."""

import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import Outcome

BAR = "both pass; the demo takes ≤ 8 min after the install, a second run ≤ 20 s, all cached"
_DEMO_S, _AGAIN_S = 8 * 60, 20
_ROOT = Path(__file__).parents[1]


def measure() -> Outcome:
    with tempfile.TemporaryDirectory(prefix="lorecast-first-run-") as folder:
        clone = Path(folder) / "main"
        _run("git", "clone", "--quiet", str(_ROOT), str(clone), cwd=_ROOT)
        data = _ROOT.parent / "shared"
        if data.is_dir():
            (Path(folder) / "shared").symlink_to(data)
        install_s, _ = _run("make", ".venv/.ready", cwd=clone)
        demo_s, _ = _run("make", "demo", cwd=clone)
        again_s, output = _run(
            ".venv/bin/lorecast", "run", "configs/world.yaml", "--json", cwd=clone
        )
        stages = [event for event in _events(output) if event["event"] == "stage"]
        test_s, tail = _run("make", "test", cwd=clone)
    cached = bool(stages) and all(stage["cached"] for stage in stages)
    return Outcome(
        figure=(
            f"make demo {demo_s:.0f} s after an install of {install_s:.0f} s; "
            f"second run {again_s:.1f} s; make test {test_s:.0f} s"
        ),
        passed=demo_s <= _DEMO_S and again_s <= _AGAIN_S and cached,
        details={
            "install_s": round(install_s, 1),
            "demo_s": round(demo_s, 1),
            "second_run_s": round(again_s, 1),
            "second_run_stages": [{k: stage[k] for k in ("stage", "cached")} for stage in stages],
            "test_s": round(test_s, 1),
            "tests": next(line for line in reversed(tail.splitlines()) if " passed" in line),
        },
    )


def _run(*command: str, cwd: Path) -> tuple[float, str]:
    started_s = time.monotonic()
    environment = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "MAKEFLAGS")}
    done = subprocess.run(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-4000:]}")
    return time.monotonic() - started_s, done.stdout


def _events(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]
