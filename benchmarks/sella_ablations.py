"""Point 4c: what SeLLa-Rec's parts are worth on CoLLM's split, on all, warm and cold rows.

Each ablation was trained with SeLLa's own setting and seeds, which validation chose for CoLLM and
SeLLa (`sella_collm`). Writes the same part of docs/studies/sella.md.
"""

import numpy as np

from benchmarks.harness import Outcome
from benchmarks.sella_collm import study
from benchmarks.studies import sella_tables as tables
from benchmarks.studies.sella_rows import ABLATION_SEEDS, ABLATIONS
from lorecast.evaluation.tables import gained

BAR = (
    "alignment, warm start, <Warm_ID> and hierarchy left out, one each, one seed: differences "
    "of test AUC and UAUC on all, warm and cold rows, each with an interval over users"
)


def measure() -> Outcome:
    here = study()
    gains = {
        (name, part, metric): here.gained("sella", name, part, metric)
        for name in ABLATIONS
        for part in here.parts
        for metric in tables.COMPARED
    }
    return Outcome(
        figure="test AUC, SeLLa less one without: "
        + "; ".join(
            f"{name} "
            + ", ".join(f"{gained(gains[name, part, 'auc'])} {part}" for part in here.parts)
            for name in ABLATIONS
        ),
        passed=all(
            gain.seeds == len(ABLATION_SEEDS) and np.isfinite((gain.low, gain.high)).all()
            for gain in gains.values()
        ),
        details={
            "test": {name: tables.by_seed(here.rows)[name] for name in ("sella", *ABLATIONS)},
            "gains": {
                pair: of_pair
                for pair, of_pair in here.told_gains().items()
                if pair.removeprefix("sella - ") in ABLATIONS
            },
        },
    )
