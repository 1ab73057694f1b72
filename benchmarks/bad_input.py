"""Point 1j: bad input of every kind gives a clear sentence and an exit code, and loses nothing."""

from benchmarks.harness import Outcome
from benchmarks.tests import run_marked

BAR = "each bad input: one clear sentence, exit code not 0, nothing lost, as tests"


def measure() -> Outcome:
    return run_marked("bad_input")
