"""Tables of a study: a line a row of its grid, compared with another row seed by seed."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lorecast.artifacts import Artifact
from lorecast.evaluation.tables import NOTHING, Line, mean_std, p_value
from lorecast.evaluation.uncertainty import SeedTest, seed_test

PAIRED = (
    "Mean ± standard deviation over seeds. Differences of test AUC are taken seed by seed, ± half "
    "of the 95 % interval of Student's t over seeds; p is two-sided."
)


def on_test(models: Sequence[Artifact], name: str = "auc") -> NDArray[np.float64]:
    """A number a seed."""
    return np.array([model.facts["metrics"]["test"][name] for model in models])


def epoch_s(models: Sequence[Artifact]) -> float:
    """Seconds an epoch, on average."""
    facts = [model.facts for model in models]
    return float(np.mean([f["seconds"] for f in facts]) / np.mean([f["epochs"] for f in facts]))


def paired(ours: Sequence[Artifact], theirs: Sequence[Artifact]) -> SeedTest | None:
    """Test AUC of ours − theirs; None for one seed."""
    return seed_test(on_test(ours) - on_test(theirs))


def lines(found: Mapping[str, Sequence[Artifact]], reference: str) -> list[Line]:
    """A line a row: what it scores on the test part, and its AUC against the reference's."""
    return [
        {
            "row": name,
            **{
                title: of_seeds(on_test(models, metric))
                for title, metric in (("AUC", "auc"), ("GAUC", "gauc"), ("LogLoss", "log_loss"))
            },
            f"AUC − {reference}": difference(models, found[reference]),
            "trained parameters": f"{models[0].facts['trained_parameters']:,}",
            "s an epoch": f"{epoch_s(models):.1f}",
        }
        for name, models in found.items()
    ]


def difference(ours: Sequence[Artifact], theirs: Sequence[Artifact]) -> str:
    """Test AUC of ours − theirs; one seed has no interval."""
    if ours is theirs:
        return NOTHING
    found = paired(ours, theirs)
    if found is None:
        return f"{(on_test(ours) - on_test(theirs)).mean():+.4f}"
    return f"{found.mean:+.4f} ± {found.half_width:.4f} (p {p_value(found.p)})"


def of_seeds(values: NDArray[np.float64]) -> str:
    """Mean ± standard deviation, if there are several."""
    return mean_std(float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else None)


def write_part(path: Path, title: str, heading: str, paragraphs: Iterable[str]) -> None:
    """Writes the part `heading` of a study's page anew; parts stand in the order of headings."""
    before = path.read_text(encoding="utf-8").split("\n## ")[1:] if path.exists() else []
    parts = dict(part.split("\n", 1) for part in before)
    parts[heading] = "\n" + "\n\n".join(paragraphs) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    page = "".join(f"\n## {name}\n{parts[name]}" for name in sorted(parts))
    path.write_text(f"# {title}\n{page}", encoding="utf-8")
