"""Point 5c: does the gate decide right? On the embedded world, 20 bootstrap seeds a challenger.

The champion is the bare DIN. Which challenger is truly better, equal or worse the test part says,
which the gate does not see (it decides on the validation part):

    better            DIN with KSER
    equal             the bare DIN, trained with another seed: of three the one nearest on test AUC
    worse             the bare DIN after one epoch
    better but slow   DIN with KSER, whose every forward pass is done several times
    better but cold   DIN with KSER, whose catalogue lacks the items with at most 60 training rows

A decision counts as right if it is, and for a refusal if the check that should fail does. Three
leaks are to be refused by all seeds: a context column that is the label but for 5 % of the rows, a
training on the slice's own users (another split), texts written with sight of all clicks.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from benchmarks.harness import Outcome
from lorecast.artifacts import write_json
from lorecast.config import PromotionConfig, Strategy, load_config
from lorecast.encoding.vectors import VectorsTable
from lorecast.evaluation.slices import training_counts
from lorecast.jobs.console import Console
from lorecast.jobs.pipeline import Pipeline, Trained
from lorecast.lifecycle.bundle import write_bundle
from lorecast.lifecycle.card import CARD, seal
from lorecast.lifecycle.check_rows import CHECK_ROWS
from lorecast.lifecycle.click_scorer import ClickScorer
from lorecast.lifecycle.frozen import FrozenSlice
from lorecast.lifecycle.gate import Contender, examine
from lorecast.lifecycle.pairs import Requests
from lorecast.lifecycle.policy import decide
from lorecast.lifecycle.scorer import Scorer, Scores
from lorecast.world.catalogue import generate

BAR = (
    "a truly better, an equal, a worse, a better-but-slower, a better-but-worse-on-cold one: right "
    "decision for ≥ 19 of 20 bootstrap seeds each; models with leaked features refused"
)
_ROOT = Path(__file__).parents[1]
_SEEDS = range(20)
_RIGHT = 19
_COLD_ITEMS = 60
"""Training samples: enough rows of such films that the slice of 200 users can tell."""
_POLICY = PromotionConfig(cold_items=_COLD_ITEMS)
_SLOWDOWN = 4
_WRONG_LABELS = 0.05


@dataclass(frozen=True)
class Case:
    """A challenger and what the gate should say of it."""

    name: str
    challenger: Contender
    fails: str | None
    """The check that should speak against it; none: it should be promoted."""
    truth: Mapping[str, float]
    """What the test part says."""


class Slow(ClickScorer):
    """A scorer that takes its time."""

    def _probabilities(self, *rows: NDArray[np.int32]) -> Scores:
        for _ in range(_SLOWDOWN - 1):
            super()._probabilities(*rows)
        return super()._probabilities(*rows)


def measure() -> Outcome:
    torch.set_num_threads(1)
    with TemporaryDirectory(prefix="lorecast-gate-") as name:
        scratch = Path(name)
        base, kser = _trained("base", 0), _trained("all_parameters", 0)
        frozen = FrozenSlice.of(base.pipeline.dataset, _POLICY)
        champion = Contender("world/1", base.scorer(scratch / "base"), frozen)
        cases = _cases(base, kser, frozen, scratch)
        leaky = _leaks(frozen, scratch)
        found = {case.name: _decisions(champion, case) for case in (*cases, *leaky)}
    return Outcome(
        figure="right: "
        + ", ".join(f"{case.name} {found[case.name]['right']}/20" for case in cases)
        + "; leaks refused: "
        + ", ".join(f"{case.name} {found[case.name]['right']}/20" for case in leaky),
        passed=all(found[case.name]["right"] >= _RIGHT for case in cases)
        and all(found[case.name]["right"] == len(_SEEDS) for case in leaky),
        details={"rows": len(frozen), "champion_test_auc": base.test_auc, "cases": found},
    )


@dataclass(frozen=True)
class Model:
    """A trained model of the world, or of tables like the world's."""

    pipeline: Pipeline
    trained: Trained

    @property
    def test_auc(self) -> float:
        return self.trained.metric("test", "auc")

    def scorer(self, folder: Path, kind: type[ClickScorer] = ClickScorer) -> Scorer:
        """Through a bundle in this folder, made if it is not there."""
        if not folder.exists():
            is_bare = self.trained.strategy == "base"
            vectors = None if is_bare else VectorsTable.open(self.pipeline.encode().path)
            artifact, dataset = self.trained.artifact, self.pipeline.dataset
            write_bundle(folder, artifact, dataset, vectors, prestore=True)
        return kind.open(folder)


def _trained(strategy: Strategy, seed: int, *overrides: str) -> Model:
    config = load_config(
        _ROOT / "configs" / "world.yaml",
        [
            f"training.strategies=[{strategy}]",
            f"training.seeds=[{seed}]",
            "encoding.components=64",
            f"compute.workspace={_ROOT / 'workspace'}",
            "compute.threads=1",
            *overrides,
        ],
    )
    pipeline = Pipeline(config, Console())
    (trained,) = pipeline.train()
    return Model(pipeline, trained)


def _cases(base: Model, kser: Model, frozen: FrozenSlice, scratch: Path) -> list[Case]:
    again = [_trained("base", seed) for seed in (1, 2, 3)]
    equal = min(again, key=lambda model: abs(model.test_auc - base.test_auc))
    worse = _trained("base", 0, "training.epochs=1")
    whole = kser.scorer(scratch / "kser")
    gained = {"test_auc_gain": kser.test_auc - base.test_auc}
    contenders: list[tuple[str, Scorer, str | None, Mapping[str, float]]] = [
        ("better", whole, None, gained),
        (
            "equal",
            equal.scorer(scratch / "equal"),
            "better",
            {"test_auc_gain": equal.test_auc - base.test_auc},
        ),
        (
            "worse",
            worse.scorer(scratch / "worse"),
            "not worse",
            {"test_auc_gain": worse.test_auc - base.test_auc},
        ),
        ("better but slow", kser.scorer(scratch / "kser", Slow), "latency", gained),
        ("better but cold", _without_rare_items(whole, frozen), "cold", gained),
    ]
    return [
        Case(name, Contender(f"world/{name}", scorer, frozen), fails, truth)
        for name, scorer, fails, truth in contenders
    ]


def _leaks(frozen: FrozenSlice, scratch: Path) -> list[Case]:
    told = _trained("base", 0, *_tables_with_label(scratch / "tables"), "training.epochs=5")
    told_rows = FrozenSlice.of(told.pipeline.dataset, _POLICY)
    other = _trained("base", 0, "dataset.split.seed=1")
    texts = scratch / "texts"
    shutil.copytree(scratch / "kser", texts)
    ends = np.load(texts / "user_history_end.npy")
    np.save(texts / "user_history_end.npy", np.full_like(ends, 1000))
    return [
        Case(
            "context of the label",
            Contender("world/context", told.scorer(scratch / "told"), told_rows),
            "too good",
            {"test_auc": told.test_auc},
        ),
        Case(
            "trained on the rows",
            Contender("world/split", other.scorer(scratch / "other"), frozen),
            "leak",
            {},
        ),
        Case(
            "texts of later clicks",
            Contender("world/texts", Scorer.load(texts), frozen),
            "leak",
            {},
        ),
    ]


def _decisions(champion: Contender, case: Case) -> dict[str, Any]:
    """How often the gate is right about a challenger, and what it found."""
    champion = Contender(champion.version, champion.scorer, case.challenger.frozen)
    right, reasons, evidence = 0, [], None
    for seed in _SEEDS:
        policy = _POLICY.model_copy(update={"seed": seed})
        evidence = examine(champion, case.challenger, policy, _ROOT / "workspace")
        decision = decide(evidence, policy)
        failed = {finding.check for finding in decision.failed}
        right += decision.promote if case.fails is None else case.fails in failed
        reasons.append(sorted(failed))
    assert evidence is not None
    return {
        "right": right,
        "should_fail": case.fails,
        "truth": case.truth,
        "failed_checks_by_seed": reasons,
        "reason_of_last_seed": decision.reason,
        "evidence_of_last_seed": evidence.model_dump(mode="json"),
    }


def _without_rare_items(whole: Scorer, frozen: FrozenSlice) -> Scorer:
    """The same model with a catalogue that does not know them: their ids are others."""
    folder = whole.bundle.path.with_name("cold")
    shutil.copytree(whole.bundle.path, folder)
    items = pq.read_table(folder / "items.parquet")
    is_rare = pa.array(training_counts(frozen.dataset)["item"][1:] <= _COLD_ITEMS)
    gone = pc.binary_join_element_wise("gone", items["id"].combine_chunks(), "-")
    ids = pc.if_else(is_rare, gone, items["id"].combine_chunks())
    pq.write_table(items.set_column(0, "id", ids), folder / "items.parquet")
    _seal_again(folder)
    checks = json.loads((folder / CHECK_ROWS).read_text(encoding="utf-8"))
    del checks["scores"]
    scores = Requests(**checks).scores(ClickScorer.open(folder))
    write_json(folder / CHECK_ROWS, {**checks, "scores": scores.tolist()})
    _seal_again(folder)
    return ClickScorer.open(folder)


def _seal_again(folder: Path) -> None:
    card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    (folder / CARD).unlink()
    seal(folder, {key: value for key, value in card.items() if key != "files"})


def _tables_with_label(folder: Path) -> Sequence[str]:
    """The world's tables with a column that is known only after the click; the overrides."""
    folder.mkdir()
    world = generate()
    liked = world.interactions["rating"].to_numpy() >= 4
    wrong = np.random.default_rng(0).random(len(liked)) < _WRONG_LABELS
    watched = pa.array(np.where(liked ^ wrong, "to the end", "not")).cast(pa.string())
    interactions = world.interactions.append_column("watched", watched)
    pq.write_table(interactions, folder / "interactions.parquet")
    pq.write_table(world.items, folder / "items.parquet")
    pq.write_table(world.users, folder / "users.parquet")
    columns = {"file": "interactions.parquet", "rating": "rating", "context": ["watched"]}
    items = {"file": "items.parquet", "id": "item_id", "title": "title", "features": ["genre"]}
    return (
        "name=world-told",
        "dataset.source=tables",
        f"dataset.path={folder}",
        f"dataset.interactions={json.dumps(columns)}",
        f"dataset.items={json.dumps(items)}",
        f"dataset.users={json.dumps({'file': 'users.parquet', 'id': 'user_id'})}",
        "knowledge.fields=[]",
    )
