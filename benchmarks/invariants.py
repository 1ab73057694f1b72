"""Point 1i: the invariants of docs/architecture.md that hold so far, as tests."""

from benchmarks.harness import Outcome
from benchmarks.tests import run_marked

BAR = "invariants 2 (gate off, no extractor), 3, 4, 6 and 7 hold as tests"


def measure() -> Outcome:
    return run_marked("invariant")
