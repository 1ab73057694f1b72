"""Point 4h: what can be wrong with a language model that is to recommend, or with its questions."""

from benchmarks.harness import Outcome
from benchmarks.tests import run_marked

BAR = (
    "tokenizer without chat template, Yes that is two tokens, model without a [pad], unknown user "
    "or item, empty history: clear errors or a defined answer, as tests"
)


def measure() -> Outcome:
    return run_marked("bad_input", "tests/sella", "tests/jobs/test_sella.py")
