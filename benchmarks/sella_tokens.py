"""Point 4d: collaborative tokens are used, and stage 3 leaves the language model as it was.

SeLLa of the embedded world, five seeds. Users with training rows get each other's token, then such
items each other's two tokens; every row keeps its own titles and history. The language model with
its adapters is digested as stage 1 left it, and by stage 3 before and after its training.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.harness import Outcome
from benchmarks.sella_world import told
from benchmarks.studies.sella_rows import THREADS, dataset_of, model_folder, trained, world
from lorecast.artifacts import Artifact
from lorecast.config import Side
from lorecast.evaluation.metrics import auc, uauc
from lorecast.evaluation.uncertainty import seed_test
from lorecast.sella import saved
from lorecast.sella.guide import Guide
from lorecast.sella.rows import PromptRows

BAR = (
    "others' tokens for users, others' tokens for items: scores change, test AUC falls with "
    "p < 0.05 over five seeds; digest of language model and adapters the same before and after "
    "stage 3"
)
_SIDES: tuple[Side, ...] = ("user", "item")
_CHANGED = 1e-4
"""A probability that moved by more has changed."""
_BATCH_SIZE = 256
_ROWS = 8000
"""Test rows, of users with training rows: others have no token of their own to exchange."""


def measure() -> Outcome:
    torch.set_num_threads(THREADS)  # as in training: products are then equal to the last bit
    config = world()
    assert config.sella is not None
    dataset = dataset_of(config)
    found = trained(config)
    train, tested = (
        PromptRows.load(dataset, split, config.sella, config.dataset.positive_rating)
        for split in ("train", "test")
    )
    warm = tested.take(np.flatnonzero(np.isin(tested.user_row_B, train.user_row_B)))
    rows = warm.draw(_ROWS, 0, whole="user")
    seeds = [
        _of_seed(Artifact.open(model_folder(ours)), Artifact.open(model_folder(text)), rows)
        for ours, text in zip(found["sella"], found["text"], strict=True)
    ]
    tests = {side: seed_test([s[side]["auc"] - s["own"]["auc"] for s in seeds]) for side in _SIDES}
    changed = {side: min(seed[side]["changed_share"] for seed in seeds) for side in _SIDES}
    same = all(len(set(seed["digests"].values())) == 1 for seed in seeds)
    falls = {side: t is not None and t.mean < 0 and t.p < 0.05 for side, t in tests.items()}
    return Outcome(
        figure=(
            "; ".join(
                f"others' tokens for {side}s: test AUC {told(test)}, at least {changed[side]:.1%} "
                "of the scores change"
                for side, test in tests.items()
                if test is not None
            )
            + f"; language model {'unchanged' if same else 'CHANGED'} by stage 3"
        ),
        passed=same and all(falls.values()) and min(changed.values()) > 0,
        details={"rows": len(rows), "seeds": seeds},
    )


def _of_seed(ours: Artifact, text: Artifact, rows: PromptRows) -> dict[str, Any]:
    model = saved.load(ours.path)
    own_B = model.probabilities(rows, _BATCH_SIZE)
    found: dict[str, Any] = {
        "own": _figures(rows, own_B),
        "digests": {
            "stage 1": saved.load(text.path).language.digest(),
            "stage 3, in training": ours.facts["language_model"],
            "stage 3": model.language.digest(),
        },
    }
    for side in _SIDES:
        model = saved.load(ours.path)
        assert model.guide is not None
        _deal_anew(model.guide, side)
        other_B = model.probabilities(rows, _BATCH_SIZE)
        changed = float((np.abs(other_B - own_B) > _CHANGED).mean())
        found[side] = {**_figures(rows, other_B), "changed_share": changed}
    return found


@torch.no_grad()
def _deal_anew(guide: Guide, side: Side) -> None:
    """Users, or items, with training rows get what stands for another of them."""
    known_R = guide.known_user_R if side == "user" else guide.known_item_R
    row_K = known_R.nonzero()[:, 0]
    other_K = row_K[torch.randperm(len(row_K), generator=torch.Generator().manual_seed(0))]
    tables = (guide.user,) if side == "user" else (guide.item, guide.semantic)
    for table in tables:
        table.weight[row_K] = table.weight[other_K].clone()


def _figures(rows: PromptRows, probability_B: NDArray[np.float32]) -> dict[str, float]:
    return {
        "auc": auc(rows.label_B, probability_B),
        "uauc": uauc(rows.user_row_B, rows.label_B, probability_B),
    }
