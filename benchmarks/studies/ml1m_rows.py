"""The rows of the study on MovieLens-1M, by what they are trained on.

All have the defaults (batch 1024, learning rate 1e-3, at most 20 epochs, patience 3): one setting
for base and augmented, the epoch by validation.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from benchmarks.studies import ml1m_sources
from benchmarks.studies.grid import ROOT, Grid, Row
from benchmarks.studies.world_rows import ABLATIONS, METHODS
from lorecast.config import load_config

SEEDS = (0, 1, 2, 3, 4)
SHARE = 0.08
"""Of the training users, in the table of all rows."""
SHARES = {0.01: 5, 0.05: 5, 0.2: 3, 1.0: 1}
"""Further shares, for three methods on DIN, with so many seeds."""
GEAR_SHARE = 0.25
"""Of the training users, where user texts are used."""
BACKBONES = ("din", "dcnv2", "deepfm", "autoint")
CONTROLS = {
    "without both (mean)" if name == "without both" else name: overrides
    for name, overrides in ABLATIONS.items()
    if name != "MoE"
}
"""On DIN. With texts of one side alone MoE and HEIN are the same model: MoE is for both sides."""
THREE = METHODS[:3]
_LONG = "dataset.history_length=30"
_BY_USER = ROOT / "configs" / "ml-1m.yaml"
_GEAR = ROOT / "benchmarks" / "studies" / "ml1m_gear.yaml"


def grids() -> Mapping[str, Grid]:
    """Every grid, the longest first; their data are written."""
    main = _users(SHARE)
    place = f"dataset.path={ml1m_sources.held_out(GEAR_SHARE)}"
    held_out = (place, "compute.encoders=2")
    moe = Row("MoE", "all_parameters", ABLATIONS["MoE"])
    items_alone = _GEAR, (*held_out, _item_fields())
    return {
        "din": Grid(*main, (*_methods("din"), *_controls()), SEEDS),
        **{
            backbone: Grid(*main, _methods(backbone), SEEDS)
            for backbone in BACKBONES
            if backbone != "din"
        },
        **{
            f"share {share:g}": Grid(*_users(share), _methods("din", THREE), SEEDS[:seeds])
            for share, seeds in sorted(SHARES.items(), reverse=True)
        },
        "gear": Grid(_GEAR, held_out, (*_methods("din"), moe), SEEDS),
        "gear, item texts": Grid(*items_alone, _methods("din", ("kser",)), SEEDS),
        "gear, long": Grid(_GEAR, (*held_out, _LONG), _methods("din", ("base",)), SEEDS),
        "gear, any time": Grid(
            _GEAR,
            (*held_out, _LONG, "dataset.interactions.history=liked_any_time"),
            _methods("din", ("base",)),
            SEEDS,
        ),
        "long": Grid(main[0], (*main[1], _LONG), _methods("din", ("base",)), SEEDS),
    }


def _users(share: float) -> tuple[Path, tuple[str, ...]]:
    place = f"dataset.path={ml1m_sources.by_user(share)}"
    return _BY_USER, (place, "dataset.split={by: column, column: part}")


def _methods(backbone: str, names: tuple[str, ...] = METHODS) -> tuple[Row, ...]:
    own = (f"model.backbone={backbone}",)
    rows = {
        "base": Row("base", "base", own),
        "hein": Row("hein", "all_parameters", (*own, "model.extractor=hein")),
        "kser": Row("kser", "all_parameters", own),
        "extractor only": Row("extractor only", "extractor_only", own),
    }
    return tuple(rows[name] for name in names)


def _controls() -> tuple[Row, ...]:
    return tuple(Row(name, "all_parameters", overrides) for name, overrides in CONTROLS.items())


def _item_fields() -> str:
    fields = load_config(_GEAR).knowledge.fields
    items = [field.model_dump(mode="json") for field in fields if field.side == "item"]
    return f"knowledge.fields={json.dumps(items)}"
