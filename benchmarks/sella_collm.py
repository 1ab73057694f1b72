"""Point 4b: CoLLM's split of MovieLens-1M with a small language model, three seeds.

The rows are checked against the published counts. Settings are searched by validation alone, MF's
with two seeds, stage 1's with the first; then all baselines and ablations (one seed) are trained
with one setting and the test part is scored once a model. Writes docs/studies/sella.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import small_llm
from benchmarks.harness import Outcome
from benchmarks.studies import sella_tables as tables
from benchmarks.studies.grid import Row
from benchmarks.studies.sella_rows import (
    ABLATION_SEEDS,
    ABLATIONS,
    BUDGET,
    COLLM_SEEDS,
    MAIN,
    PAGE,
    TITLE,
    collm,
    dataset_of,
    grid,
    sasrec_grid,
    trained,
    valid_figures,
)
from benchmarks.studies.sella_split import COLD_ROWS, PUBLISHED, WARM_ROWS, counts, warm_rows
from benchmarks.studies.tables import write_part
from lorecast.artifacts import Artifact
from lorecast.config.sella import Method
from lorecast.evaluation.comparison import Scored
from lorecast.evaluation.results import Gain
from lorecast.evaluation.tables import markdown

BAR = (
    "row counts as published; MF ≥ 0.648 AUC and ≥ 0.636 UAUC; SeLLa above MF and above text only "
    "in both"
)
_BAR_MF = {"auc": 0.648, "uauc": 0.636}
_ALIGN = grid("align", dim=(64, 128, 256), learning_rate=(3e-3,), weight_decay=(1.0, 3.0, 10.0))
_TUNE = grid("tune", learning_rate=(5e-4, 2e-3))
_SASREC = (
    ("model.dropout=0.2",),
    (
        "model.dropout=0.5",
        "training.weight_decay=1.0",
        "training.learning_rate=0.0005",
        "training.averaging=0.98",
    ),
)
_PAIRS = (
    *(("sella", name) for name in ("mf", "text", "collm")),
    ("collm", "text"),
    *(("sella", name) for name in ABLATIONS),
)
_BARRED = (("sella", "mf"), ("sella", "text"))


@dataclass(frozen=True)
class Study:
    """All models of the study, their test scores, and what one has over another."""

    found: Mapping[str, Sequence[Artifact]]
    rows: Scored
    parts: Mapping[str, NDArray[np.bool_]]
    """Which test rows are all, warm, cold: [B] each."""
    gains: Mapping[tuple[str, str], Mapping[str, Mapping[str, Gain]]]
    """By pair of methods, part and metric."""

    def gained(self, ours: str, theirs: str, part: str, metric: str) -> Gain:
        return self.gains[ours, theirs][part][metric]

    def told_gains(self) -> dict[str, Any]:
        """All differences, as JSON can hold them."""
        return {
            f"{ours} - {theirs}": {
                part: {metric: gain.model_dump() for metric, gain in of_part.items()}
                for part, of_part in of_pair.items()
            }
            for (ours, theirs), of_pair in self.gains.items()
        }


def study() -> Study:
    """Trains and scores what is missing; writes the study's part of the page."""
    warm_B = warm_rows(dataset_of(collm(MAIN, *chosen())))
    found: dict[str, Sequence[Artifact]] = dict(trained(collm(MAIN, *chosen())))
    fewer = f"training.seeds=[{','.join(map(str, ABLATION_SEEDS))}]"
    found |= trained(collm(ABLATIONS, *chosen(), fewer))
    found[tables.SASREC] = _sasrec()
    found[tables.LIGHTGCN] = trained(collm(("mf",), *chosen(), "sella.align.model=lightgcn"))["mf"]
    parts = {tables.ALL: np.ones_like(warm_B), tables.WARM: warm_B, tables.COLD: ~warm_B}
    rows = tables.scored(found)
    gains = tables.gains(rows, parts, _PAIRS)
    _tell(tables.figures(rows, parts), tables.differences(gains, tuple(parts)))
    return Study(found, rows, parts, gains)


def measure() -> Outcome:
    here = study()
    found, gains, warm_B = here.found, here.gains, here.parts[tables.WARM]
    there = counts(dataset_of(collm(MAIN, *chosen())))
    test = tables.by_seed(here.rows)
    holds = {
        "row counts": there == PUBLISHED
        and (int(warm_B.sum()), int((~warm_B).sum())) == (WARM_ROWS, COLD_ROWS),
        **{
            f"MF {metric}": float(np.mean(test["mf"][metric])) >= bar
            for metric, bar in _BAR_MF.items()
        },
        **{
            f"{ours} > {theirs}, {metric}": here.gained(ours, theirs, tables.ALL, metric).value > 0
            for ours, theirs in _BARRED
            for metric in tables.COMPARED
        },
    }
    return Outcome(
        figure=(
            ", ".join(
                f"{name} {np.mean(test[name]['auc']):.4f} / {np.mean(test[name]['uauc']):.4f}"
                for name in MAIN
            )
            + " (test AUC / UAUC); "
            + "; ".join(
                f"{ours} − {theirs} AUC {tables.gained(gains[ours, theirs][tables.ALL].get('auc'))}"
                for ours, theirs in _PAIRS[:4]
            )
        ),
        passed=all(holds.values()),
        details={
            "holds": holds,
            "setting": chosen(),
            "valid_auc": {name: _valid(models) for name, models in found.items()},
            "test": test,
            "gains": here.told_gains(),
        },
    )


@cache
def chosen() -> tuple[str, ...]:
    """The setting with the best validation AUC plus UAUC, one section after the other."""
    two, one = COLLM_SEEDS[:2], COLLM_SEEDS[:1]
    align = max(_ALIGN, key=lambda own: _quality(("mf",), two, own))
    tune = max(_TUNE, key=lambda own: _quality(("text",), one, (*align, *own)))
    return (*align, *tune)


def _quality(methods: Sequence[Method], seeds: Sequence[int], setting: tuple[str, ...]) -> float:
    found = valid_figures(collm(methods, *setting), seeds)
    return float(np.mean([each["auc"] + each["uauc"] for each in found]))


def _sasrec() -> list[Artifact]:
    """SASRec by the setting with the best mean validation AUC of two seeds."""
    rows = tuple(
        Row(f"sasrec, setting {number}", "base", ("model.backbone=sasrec", *setting))
        for number, setting in enumerate(_SASREC)
    )
    searched = sasrec_grid(rows, COLLM_SEEDS[:2]).run()
    best = max(rows, key=lambda row: float(np.mean(_valid(searched[row.name]))))
    return sasrec_grid((best,), COLLM_SEEDS).run()[best.name]


def _valid(models: Sequence[Artifact]) -> list[float]:
    return [round(model.facts["metrics"]["valid"]["auc"], 5) for model in models]


def _tell(figures: list[Any], differences: list[Any]) -> None:
    recipe = small_llm.Recipe()
    intro = (
        f"`make bar P=4b`: CoLLM's split, {len(COLLM_SEEDS)} seeds, a language model of ten "
        f"million parameters that has read {recipe.tokens / 1e6:.0f} million tokens about films "
        "(`benchmarks/small_llm.py`). Mean ± standard deviation over seeds, with the 95 % interval "
        "of users drawn anew; rows without ± are of one seed. Warm: user and film both have "
        "training rows."
    )
    shift = (
        "Differences of mean figures, each with its 95 % interval over users (the same draws for "
        "both) and over the seeds that both have. Where the interval holds 0, this test part "
        "cannot tell the two apart; cold UAUC rests on 51 users."
    )
    published = (
        "Published on this split with a model of seven billion parameters, which a small one "
        "cannot be held against:"
    )
    paragraphs = (
        f"Setting, chosen by validation: `{' '.join(chosen())}`; besides, `{' '.join(BUDGET)}`.",
        markdown(figures),
        shift,
        markdown(differences),
        published,
        markdown(tables.ANCHORS),
    )
    write_part(PAGE, TITLE, "CoLLM's split of MovieLens-1M", (intro, *paragraphs))
