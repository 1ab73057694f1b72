"""Point 2d: collective against individual extraction on the embedded world.

Groups are made factor by factor from individual answers about the head of the items, spread along
clicks (represent: knowledge); users are all grouped. The factors are those that the audit finds to
carry something of their own: `stock` is the same for all films, `palette` repeats `mood`.
"""

import json
from math import sqrt
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.harness import Outcome
from lorecast.config import load_config
from lorecast.jobs.console import Console
from lorecast.jobs.pipeline import Pipeline

BAR = (
    "k ≤ 5 % of the entities, ≤ 5 % of the calls: ≥ 80 % of individual's AUC gain (5 seeds); "
    "table over 5 values of k"
)
_ROOT = Path(__file__).parents[1]
_SEEDS = (0, 1, 2, 3, 4)
_FACTORS = ("director", "mood", "theme", "setting", "pace")
_NUM_ITEMS, _NUM_USERS = 600, 2000
_BUDGETS = {
    "1 %": (8, 8, 20),
    "2 %": (12, 10, 50),
    "3 %": (16, 12, 81),
    "4 %": (18, 14, 113),
    "5 %": (20, 16, 146),
}
"""Groups of users, groups of items, items asked individually."""
_BAR_KEPT, _BAR_CALLS, _BAR_GROUPS = 0.8, 0.05, 0.05


def measure() -> Outcome:
    base = _auc(_pipeline("base"))
    individual, all_calls = _run(_individual("item"), _individual("user"))
    rows: dict[str, dict[str, Any]] = {}
    for budget, (users, items, head) in _BUDGETS.items():
        auc, calls = _run(_collective("item", items, head / _NUM_ITEMS), _collective("user", users))
        rows[budget] = _row(auc, individual, base, calls, all_calls) | {
            "user_groups": users,
            "item_groups": items,
            "items_asked_individually": head,
        }
    auc, calls = _run(_individual("item"), _collective("user", 20, factors=()))
    further = {
        "items individual, users in 20 groups a factor": _row(
            auc, individual, base, calls, all_calls
        )
    }
    best = rows["5 %"]
    groups_fit = (
        best["user_groups"] <= _BAR_GROUPS * _NUM_USERS
        and best["item_groups"] <= _BAR_GROUPS * _NUM_ITEMS
    )
    gains = [full - bare for full, bare in zip(individual, base, strict=True)]
    return Outcome(
        figure=(
            f"{best['calls_share']:.1%} of the calls keep {best['kept']:.0%} of individual's gain "
            f"(test AUC {best['gain']:+.4f} ± {best['gain_sd']:.4f} of {mean(gains):+.4f} ± "
            f"{stdev(gains):.4f}, 5 seeds)"
        ),
        passed=best["calls_share"] <= _BAR_CALLS and best["kept"] >= _BAR_KEPT and groups_fit,
        details={
            "base_auc": base,
            "individual_auc": individual,
            "individual_calls": all_calls,
            "collective": rows,
            "further": further,
        },
    )


def _individual(side: str) -> dict[str, Any]:
    return {"kind": "generate", "name": _name(side), "side": side}


def _collective(
    side: str, clusters: int, head: float = 0.0, factors: tuple[str, ...] = _FACTORS
) -> dict[str, Any]:
    groups = {"clusters": clusters, "represent": "knowledge", "head": head, "shown": 10}
    return {
        **_individual(side),
        "factors": list(factors),
        "extraction": "collective",
        "collective": groups,
    }


def _name(side: str) -> str:
    return "item_facts" if side == "item" else "user_preference"


def _run(*fields: dict[str, Any]) -> tuple[list[float], int]:
    """Test AUC by seed with these fields, and the calls that generation wanted."""
    pipeline = _pipeline("all_parameters", f"knowledge.fields={json.dumps(fields)}")
    asked = pipeline.generate().facts["fields_asked"]
    return _auc(pipeline), sum(field["wanted"] for field in asked.values())


def _pipeline(strategy: str, *words: str) -> Pipeline:
    config = load_config(
        _ROOT / "configs" / "world.yaml",
        [
            f"training.strategies=[{strategy}]",
            f"training.seeds={list(_SEEDS)}",
            f"compute.workspace={_ROOT / 'workspace'}",
            "compute.threads=1",
            "compute.engines=1",
            *words,
        ],
    )
    return Pipeline(config, Console())


def _auc(pipeline: Pipeline) -> list[float]:
    return [model.metric("test", "auc") for model in pipeline.train()]


def _row(
    auc: list[float], individual: list[float], base: list[float], calls: int, all_calls: int
) -> dict[str, Any]:
    gains = [each - bare for each, bare in zip(auc, base, strict=True)]
    whole = mean(full - bare for full, bare in zip(individual, base, strict=True))
    return {
        "calls": calls,
        "calls_share": calls / all_calls,
        "auc": auc,
        "gain": mean(gains),
        "gain_sd": stdev(gains),
        "gain_standard_error": stdev(gains) / sqrt(len(gains)),
        "kept": mean(gains) / whole,
    }
