"""Point 3a: on the embedded world, KSER over HEIN over the bare backbone, on nine backbones.

Five paired seeds each, the default setting for all rows but for the dropout in HEIN's experts (0.2,
wanted by validation, see `world_rows.HEIN`); validation picks the epoch. Three claims are tested on
each backbone by Student's t on the paired differences of test AUC: KSER, all parameters trained,
over HEIN; HEIN over the base; KSER trained alone on the frozen base over it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from benchmarks.harness import Outcome
from benchmarks.studies.tables import (
    PAIRED,
    difference,
    epoch_s,
    lines,
    on_test,
    paired,
    write_part,
)
from benchmarks.studies.world_rows import METHODS, NINE, PAGE, SEEDS, TITLE, grid, methods
from lorecast.artifacts import Artifact
from lorecast.drawing import COLOURS, figure
from lorecast.evaluation.tables import markdown
from lorecast.training.trainer import WEIGHTS

BAR = (
    "test AUC, paired over five seeds, p < 0.05: KSER > HEIN, HEIN > base, extractor only > base, "
    "each on ≥ 7 of 9 backbones; the backbone's weights unchanged, extractor only cheaper than all"
)
_BAR_BACKBONES = 7
_CLAIMS = {
    "KSER > HEIN": ("kser", "hein"),
    "HEIN > base": ("hein", "base"),
    "extractor only > base": ("extractor only", "base"),
}


def measure() -> Outcome:
    table = {}
    for backbone in NINE:
        found = grid(methods(backbone)).run()
        table[backbone] = {name: found[f"{backbone}: {name}"] for name in METHODS}
    tests = {backbone: _tests(found) for backbone, found in table.items()}
    won = {
        claim: sum(t[claim]["difference"] > 0 and t[claim]["p"] < 0.05 for t in tests.values())
        for claim in _CLAIMS
    }
    unchanged = all(
        same_backbone(base, only)
        for found in table.values()
        for base, only in zip(found["base"], found["extractor only"], strict=True)
    )
    cheaper = sum(
        _mean(found["extractor only"], "trained_parameters")
        < _mean(found["kser"], "trained_parameters")
        and epoch_s(found["extractor only"]) < epoch_s(found["kser"])
        for found in table.values()
    )
    _tell(table)
    _draw(table, PAGE.with_name("world-methods.png"))
    return Outcome(
        figure=(
            ", ".join(f"{claim} on {count} of {len(NINE)}" for claim, count in won.items())
            + f" (p < 0.05); frozen weights {'unchanged' if unchanged else 'CHANGED'}, extractor "
            f"only cheaper than all on {cheaper} of {len(NINE)}"
        ),
        passed=min(won.values()) >= _BAR_BACKBONES and unchanged and cheaper >= _BAR_BACKBONES,
        details={
            "rows": {
                backbone: {name: summary(models) for name, models in found.items()}
                for backbone, found in table.items()
            },
            "tests": tests,
        },
    )


def summary(models: Sequence[Artifact]) -> dict[str, Any]:
    """Figures of a row: each seed's, and what training cost on average."""
    facts = [model.facts for model in models]
    return {
        "valid_auc": [round(f["metrics"]["valid"]["auc"], 5) for f in facts],
        "test_auc": [round(f["metrics"]["test"]["auc"], 5) for f in facts],
        "test_log_loss": [round(f["metrics"]["test"]["log_loss"], 5) for f in facts],
        "test_gauc": [round(f["metrics"]["test"]["gauc"], 5) for f in facts],
        "epochs": [f["epochs"] for f in facts],
        "epoch_s": round(epoch_s(models), 3),
        "trained_parameters": facts[0]["trained_parameters"],
    }


def _tests(found: Mapping[str, Sequence[Artifact]]) -> dict[str, dict[str, float]]:
    tests = {}
    for claim, (ours, theirs) in _CLAIMS.items():
        over_seeds = paired(found[ours], found[theirs])
        assert over_seeds is not None
        tests[claim] = {
            "difference": round(over_seeds.mean, 5),
            "half_width": round(over_seeds.half_width, 5),
            "p": round(over_seeds.p, 5),
        }
    return tests


def same_backbone(base: Artifact, only: Artifact) -> bool:
    """Whether a model trained on a frozen backbone still has its weights."""
    theirs, ours = (load_file(model.path / WEIGHTS) for model in (base, only))
    return all(torch.equal(value, ours[name]) for name, value in theirs.items())


def _mean(models: Sequence[Artifact], fact: str) -> float:
    return float(np.mean([model.facts[fact] for model in models]))


def _tell(table: Mapping[str, Mapping[str, Sequence[Artifact]]]) -> None:
    claims = [
        {
            "backbone": backbone,
            **{
                claim: difference(found[ours], found[theirs])
                for claim, (ours, theirs) in _CLAIMS.items()
            },
        }
        for backbone, found in table.items()
    ]
    rows = [
        {"backbone": backbone, **line}
        for backbone, found in table.items()
        for line in lines(found, "base")
    ]
    paragraphs = (
        f"`make bar P=3a`: {len(SEEDS)} seeds, the default setting for all rows but for HEIN's "
        "dropout (0.2, by validation), epochs by validation. Seconds an epoch were taken while "
        "other work ran. " + PAIRED,
        markdown(claims),
        "![test AUC of nine backbones](world-methods.png)",
        markdown(rows),
    )
    write_part(PAGE, TITLE, "Methods on nine backbones", paragraphs)


def _draw(table: Mapping[str, Mapping[str, Sequence[Artifact]]], path: Path) -> None:
    title = f"The embedded world: test AUC of nine backbones, {len(SEEDS)} seeds"
    with figure(path, title, width=9.0, height=4.2) as (_, axes):
        for place, (name, colour) in enumerate(zip(METHODS, COLOURS, strict=False)):
            auc = np.stack([on_test(table[backbone][name]) for backbone in NINE])
            across = np.arange(len(NINE)) + 0.17 * (place - 1.5)
            axes.errorbar(
                across, auc.mean(1), auc.std(1, ddof=1), fmt="o", ms=5, color=colour, label=name
            )
        axes.set_xticks(range(len(NINE)), NINE)
        axes.grid(axis="y")
        axes.set_ylabel("test AUC, mean ± std")
        axes.legend(ncols=len(METHODS), loc="upper center", bbox_to_anchor=(0.5, -0.12))
