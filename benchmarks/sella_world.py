"""Point 4a: on the embedded world, SeLLa over CoLLM's way over text alone, and SeLLa over MF.

Five paired seeds, one setting for all methods (configs/world-sella.yaml); validation picks the
check whose weights are kept. Differences of test AUC and UAUC are tested by Student's t.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.harness import Outcome
from benchmarks.studies.sella_rows import PAGE, TITLE, WORLD_SEEDS, trained, world
from benchmarks.studies.tables import of_seeds, on_test, write_part
from lorecast.artifacts import Artifact
from lorecast.config.sella import Method
from lorecast.evaluation.tables import Line, markdown, p_value
from lorecast.evaluation.uncertainty import SeedTest, seed_test
from lorecast.sella.methods import about

BAR = (
    "test AUC and UAUC, paired over five seeds: SeLLa > CoLLM > text only and SeLLa > MF; SeLLa > "
    "text only and SeLLa > MF with p < 0.05"
)
_METRICS = {"auc": "AUC", "uauc": "UAUC"}
_CLAIMS: Mapping[tuple[Method, Method], bool] = {
    ("sella", "mf"): True,
    ("sella", "text"): True,
    ("sella", "collm"): False,
    ("collm", "text"): False,
}
"""What shall be above what, and whether it must be significant."""


def measure() -> Outcome:
    found = trained(world())
    tests = {
        (ours, theirs, metric): _test(found[ours], found[theirs], metric)
        for ours, theirs in _CLAIMS
        for metric in _METRICS
    }
    holds = {
        f"{ours} > {theirs}, {metric}": test.mean > 0
        and (test.p < 0.05 or not _CLAIMS[ours, theirs])
        for (ours, theirs, metric), test in tests.items()
    }
    _tell(found, tests)
    return Outcome(
        figure=", ".join(
            f"{method} {on_test(models).mean():.4f} / {on_test(models, 'uauc').mean():.4f}"
            for method, models in found.items()
        )
        + " (test AUC / UAUC); "
        + "; ".join(
            f"{ours} − {theirs} {metric} {told(test)}"
            for (ours, theirs, metric), test in tests.items()
        ),
        passed=all(holds.values()),
        details={
            "holds": holds,
            "rows": {
                method: {metric: on_test(models, metric).tolist() for metric in _METRICS}
                for method, models in found.items()
            },
        },
    )


def told(test: SeedTest) -> str:
    """A difference, half its interval over seeds, its p."""
    return f"{test.mean:+.4f} ± {test.half_width:.4f} (p {p_value(test.p)})"


def _test(ours: Sequence[Artifact], theirs: Sequence[Artifact], metric: str) -> SeedTest:
    found = seed_test(np.subtract(on_test(ours, metric), on_test(theirs, metric)))
    assert found is not None
    return found


def _tell(
    found: Mapping[Method, Sequence[Artifact]], tests: Mapping[tuple[Method, Method, str], SeedTest]
) -> None:
    rows: list[Line] = [
        {
            "method": method,
            "what": about(method),
            **{name: of_seeds(on_test(models, metric)) for metric, name in _METRICS.items()},
        }
        for method, models in found.items()
    ]
    claims: list[Line] = [
        {
            "difference": f"{ours} − {theirs}",
            **{name: told(tests[ours, theirs, metric]) for metric, name in _METRICS.items()},
        }
        for ours, theirs in _CLAIMS
    ]
    intro = (
        f"`make bar P=4a`: configs/world-sella.yaml, {len(WORLD_SEEDS)} seeds, the world's tiny "
        "language model. Mean ± standard deviation over seeds on the test part, which is later "
        "than the training part; differences ± half of the 95 % interval of Student's t."
    )
    write_part(PAGE, TITLE, "The embedded world", (intro, markdown(rows), markdown(claims)))
