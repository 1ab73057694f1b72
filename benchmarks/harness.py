"""Measures one point, prints its figure last, writes `benchmarks/results/<point>.json`.

A point is a module of this package with `BAR` (a sentence) and `measure() -> Outcome`. Exit code 0
only if the bar holds. Timings are ratios taken side by side in one run.
"""

import argparse
import importlib
import json
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lorecast.artifacts import versions, write_json

RESULTS = Path(__file__).parent / "results"
POINTS = {
    "1a": "first_run",
    "1b": "world_llm",
    "1c": "world_kser",
    "1d": "ml1m_din",
    "1e": "ml1m_end_to_end",
    "1f": "training_speed",
    "1g": "prepare_speed",
    "1h": "parity",
    "1i": "invariants",
    "1j": "bad_input",
    "1k": "http_bad_input",
    "2a": "generation_speed",
    "2b": "generation_kill",
    "2c": "generation_growth",
    "2d": "collective_world",
    "2e": "generation_two_nodes",
    "2f": "generation_plumbing",
    "2g": "openai_endpoint",
    "2h": "generation_leaks",
    "2i": "generation_bad_input",
    "2j": "audit_world",
    "3a": "world_methods",
    "3b": "world_gates",
    "3c": "collm_split",
    "3d": "ml1m_study",
    "3e": "training_cost",
    "3f": "race_fuxictr",
    "3g": "race_kar",
    "3h": "gauc_speed",
    "3i": "two_workers",
    "3j": "training_kill",
    "3k": "model_bad_input",
    "4a": "sella_world",
    "4b": "sella_collm",
    "4c": "sella_ablations",
    "4d": "sella_tokens",
    "4e": "sella_speed",
    "4f": "sella_served",
    "4g": "sella_kill",
    "4h": "sella_bad_input",
    "4i": "sella_vllm",
    "5a": "cluster_jobs",
    "5b": "search",
    "5c": "promotion_gate",
    "5d": "serving_race",
    "5e": "prestored_race",
    "5f": "swap_under_load",
    "5g": "autoscaling",
    "5h": "overload",
    "5i": "mlflow_lost",
    "5j": "page",
    "5k": "security",
    "5l": "s3_postgres",
    "5m": "refresh",
    "5n": "offline_scoring",
}


@dataclass(frozen=True)
class Outcome:
    """What a measurement found."""

    figure: str
    """The headline, with its unit."""
    passed: bool
    details: Mapping[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bar P=…", description=__doc__)
    parser.add_argument("point", choices=sorted(POINTS))
    point = parser.parse_args().point
    module = importlib.import_module(f"benchmarks.{POINTS[point]}")
    outcome: Outcome = module.measure()
    RESULTS.mkdir(exist_ok=True)
    write_json(
        RESULTS / f"{point}.json",
        {
            "point": point,
            "passed": outcome.passed,
            "figure": outcome.figure,
            "bar": module.BAR,
            "command": f"make bar P={point}",
            "details": outcome.details,
            "machine": _machine(),
            "versions": versions(),
            "date": datetime.now(UTC).date().isoformat(),
        },
    )
    print(json.dumps(outcome.details, indent=1))
    print(f"{point}: {'holds' if outcome.passed else 'FAILS'} (bar: {module.BAR})")
    print(outcome.figure)
    return 0 if outcome.passed else 1


def _machine() -> dict[str, Any]:
    model = "unknown"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].split(":", 1)[1].strip() if names else model
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gib": round(memory_gib, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "load_1min": round(os.getloadavg()[0], 2),
    }


if __name__ == "__main__":
    sys.exit(main())
