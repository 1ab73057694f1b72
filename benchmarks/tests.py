"""Points whose bar is a set of tests: runs those with a marker and counts them."""

import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path

from benchmarks.harness import Outcome


def run_marked(marker: str, *paths: str) -> Outcome:
    """Runs the tests marked `marker`, below `paths` if given; holds if at least one ran and none
    failed or was skipped."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "junit.xml"
        subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-m", marker, f"--junitxml={report}", *paths],
            env={**os.environ, "LORECAST_REQUIRE_DATA": "1", "OMP_NUM_THREADS": "1"},
            check=False,
        )
        cases = ET.parse(report).getroot().iter("testcase")
        outcomes = {
            f"{case.get('classname')}::{case.get('name')}": next(
                (child.tag for child in case if child.tag in ("failure", "error", "skipped")),
                "passed",
            )
            for case in cases
        }
    passed = sum(outcome == "passed" for outcome in outcomes.values())
    return Outcome(
        figure=f"{passed} of {len(outcomes)} tests pass",
        passed=0 < passed == len(outcomes),
        details={"tests": outcomes},
    )
