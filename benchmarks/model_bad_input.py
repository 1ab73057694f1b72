"""Point 3k: what can be wrong with what models are trained on, or with a backbone of one's own."""

from benchmarks.harness import Outcome
from benchmarks.tests import run_marked

BAR = (
    "vectors of another dataset, an extractor of another width, NaN labels, one class only, a "
    "backbone that returns the wrong shape, knowledge written after the sample: clear errors, as "
    "tests"
)


def measure() -> Outcome:
    return run_marked("bad_input", "tests/platform/models", "tests/platform/training")
