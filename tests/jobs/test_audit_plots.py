from pathlib import Path

import numpy as np

from lorecast.jobs import audit_plots
from lorecast.knowledge.audit import Audit, FactorFigures, Redundancy

PNG = b"\x89PNG"


def figures(factor: str, **accuracy: float) -> FactorFigures:
    return FactorFigures(
        side="item",
        field="facts",
        factor=factor,
        texts=10,
        status={"ok": 1.0},
        words=(3.0, 5.0, 9.0),
        distinct=4,
        copied=0.6,
        near_copied=0.8,
        top_answer="gloomy",
        top_share=0.4,
        echo=0.2,
        names=None,
        names_from_prompt=None,
        accuracy=accuracy,
    )


def matrix(num: int) -> Redundancy:
    names = tuple(f"factor{n}" for n in range(num))
    nothing = np.full((num, num), np.nan)
    return Redundancy(side="item", factors=names, overlap=np.eye(num), told=nothing)


def test_draws_what_there_is(tmp_path: Path) -> None:
    factors = (figures("mood", all=0.8, popular=1.0, rare=0.5), figures("pace", all=0.9))
    drawn = audit_plots.draw(Audit(factors=factors, redundancy=(matrix(2), matrix(14))), tmp_path)
    assert drawn == ["lengths.png", "duplicates.png", "redundancy.png", "accuracy.png"]
    for name in drawn:
        assert (tmp_path / name).read_bytes().startswith(PNG)


def test_one_factor_without_truth_has_two_pictures(tmp_path: Path) -> None:
    audit = Audit(factors=(figures("mood"),), redundancy=(matrix(1),))
    assert audit_plots.draw(audit, tmp_path) == ["lengths.png", "duplicates.png"]
