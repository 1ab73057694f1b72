"""Point 5k: what an attacker may try, as tests: pickles planted in a bundle, a workspace, a model
of MLflow and a vectors folder; paths and names that lead elsewhere; markup in titles and texts; a
token that is guessed, misplaced or looked for in logs; huge bodies. Where logs matter the endpoint
is a real one.
"""

from benchmarks.harness import Outcome
from benchmarks.tests import run_marked

BAR = "tests: no pickle runs, no token in a log or tag, loopback, no path elsewhere, no huge body"


def measure() -> Outcome:
    return run_marked("security")
