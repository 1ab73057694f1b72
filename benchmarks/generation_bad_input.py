"""Point 2i: what can be wrong with the input of generation."""

from benchmarks.harness import Outcome
from benchmarks.tests import run_marked

BAR = (
    "unknown template variable, doubled factors, model without tokenizer, over-long prompt, full "
    "disk, unreadable import rows and the like: clear errors, nothing lost, as tests"
)


def measure() -> Outcome:
    return run_marked("bad_input", "tests/platform/knowledge", "tests/jobs")
