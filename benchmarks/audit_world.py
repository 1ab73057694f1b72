"""Point 2j: the audit on the embedded world against the truth, and against planted duplicates.

The truth is counted here anew, from the world's tables with plain dictionaries, without any of the
code that the audit uses. The duplicates are planted into a copy of the knowledge table.
"""

import json
import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.harness import Outcome
from lorecast.artifacts import Artifact
from lorecast.config import ExperimentConfig, load_config
from lorecast.data.dataset import Dataset
from lorecast.jobs import audit
from lorecast.jobs.console import Console
from lorecast.jobs.pipeline import Pipeline
from lorecast.knowledge import rows
from lorecast.knowledge.quality import with_quality
from lorecast.lifecycle.registry import InMemoryRegistry
from lorecast.world import World, generate
from lorecast.world.vocabulary import HIDDEN_FACTORS

BAR = (
    "audit on the world: its factual-accuracy column equals the truth table's own count; planted "
    "duplicates found (all exact ones, ≥ 95 % of near ones, no false alarm)"
)
_ROOT = Path(__file__).parents[1]
_BAR_NEAR_RECALL = 0.95
_SHOWN, _SEEN_AT_MOST, _LIKE_ABOVE = 10, 30, 3
_FIELD = "planted"
_PLANTS, _WORDS, _VOCABULARY = 100, 40, 2000


def measure() -> Outcome:
    config = load_config(
        _ROOT / "configs" / "world.yaml",
        [f"compute.workspace={_ROOT / 'workspace'}", "compute.threads=1"],
    )
    pipeline = Pipeline(config, Console())
    knowledge = pipeline.generate()
    return check(config, pipeline.dataset, knowledge)


def check(config: ExperimentConfig, dataset: Dataset, knowledge: Artifact) -> Outcome:
    """The outcome for a finished knowledge artifact of the world."""
    truth = _compare(config, dataset, knowledge)
    duplicates = _planted(pq.read_table(knowledge.path / rows.KNOWLEDGE))
    accuracy = truth["right"] / truth["rows"]
    return Outcome(
        figure=(
            f"{truth['rows'] - truth['rows_that_differ']:,} of {truth['rows']:,} rows judged as "
            f"the truth table says ({accuracy:.1%} true); planted duplicates found: exact "
            f"{duplicates['exact_found']}/{_PLANTS}, near {duplicates['near_found']}/{_PLANTS}, "
            f"{duplicates['false_alarms']} false alarms"
        ),
        passed=(
            truth["rows_that_differ"] == 0
            and not truth["figures_that_differ"]
            and duplicates["exact_found"] == _PLANTS
            and duplicates["near_found"] >= _BAR_NEAR_RECALL * _PLANTS
            and duplicates["false_alarms"] == 0
        ),
        details={"truth": truth, "duplicates": duplicates},
    )


# ── truth ────────────────────────────────────────────────────────────────────────────────────


def _compare(config: ExperimentConfig, dataset: Dataset, knowledge: Artifact) -> dict[str, Any]:
    """The audit's `right` column and accuracy figures against this module's own count."""
    with tempfile.TemporaryDirectory(prefix="lorecast-") as scratch:
        compute = config.compute.model_copy(update={"workspace": scratch})
        folder = audit.run(
            config.model_copy(update={"compute": compute}),
            dataset,
            knowledge,
            Console(quiet=True),
            InMemoryRegistry(),
        )
        table = pq.read_table(folder / audit.ROWS)
        figures = json.loads((folder / "audit.json").read_text(encoding="utf-8"))["factors"]
    world = generate(config.dataset.world_seed)
    films = {film["item_id"]: film for film in world.item_truth.to_pylist()}
    liked = _liked(world)
    differ, judged = 0, 0
    tally: dict[tuple[str, str], Counter[tuple[str, bool]]] = defaultdict(Counter)
    for row in table.to_pylist():
        expected = None
        if row["status"] == "ok":
            judged += 1
            expected = _is_right(row, films, liked)
            parts = ["all"]
            if row["side"] == "item":
                quarter = films[row["id"]]["popularity_quarter"]
                parts += {1: ["popular"], 4: ["rare"]}.get(quarter, [])
            for part in parts:
                tally[row["side"], row["factor"]][part, expected] += 1
        differ += row["right"] != expected
    own = {
        key: {
            part: counts[part, True] / (counts[part, True] + counts[part, False])
            for part in dict.fromkeys(part for part, _ in counts)
        }
        for key, counts in tally.items()
    }
    return {
        "rows": table.num_rows,
        "judged": judged,
        "right": sum(counts["all", True] for counts in tally.values()),
        "rows_that_differ": differ,
        "figures_that_differ": [
            f"{each['side']} {each['factor']}"
            for each in figures
            if not _same(each["accuracy"], own[each["side"], each["factor"]])
        ],
        "accuracy": {f"{side} {factor}": shares for (side, factor), shares in own.items()},
    }


def _liked(world: World) -> dict[str, list[str]]:
    """By viewer, the films that a prompt shows as liked."""
    rated: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for click in world.interactions.to_pylist():  # in time order
        rated[click["user_id"]].append((click["item_id"], click["rating"]))
    liked = {}
    for user in world.users["user_id"].to_pylist():
        seen = rated[user][: min((len(rated[user]) + 1) // 2, _SEEN_AT_MOST)]
        liked[user] = [film for film, rating in seen[-_SHOWN:] if rating > _LIKE_ABOVE]
    return liked


def _is_right(
    row: dict[str, Any], films: dict[str, dict[str, Any]], liked: dict[str, list[str]]
) -> bool:
    factor = row["factor"]
    named = [value for value in HIDDEN_FACTORS[factor].values if value in row["text"]]
    if row["side"] == "item":
        return named == [films[row["id"]][factor]]
    counts = Counter(films[film][factor] for film in liked[row["id"]])
    if not counts:
        return len(named) != 1
    return len(named) == 1 and counts[named[0]] == max(counts.values())


def _same(ours: dict[str, float], theirs: dict[str, float]) -> bool:
    return ours.keys() == theirs.keys() and all(
        abs(share - theirs[part]) < 1e-9 for part, share in ours.items()
    )


# ── duplicates ───────────────────────────────────────────────────────────────────────────────


def _planted(knowledge: pa.Table) -> dict[str, Any]:
    """Exact copies, near copies and decoys in one more field about the table's items."""
    ids = pc.unique(knowledge.filter(pc.equal(knowledge["side"], "item"))["id"]).to_pylist()
    rng = Random(0)
    # One text an item: four of a kind in a row are source, exact copy, near copy's source, near
    # copy; then come decoys that keep half of another's words; the rest has its own words.
    words = [f"word{number}" for number in range(_VOCABULARY)]
    texts, kinds = [], []
    for _ in range(_PLANTS):
        first, second = (rng.choices(words, k=_WORDS) for _ in range(2))
        texts += [" ".join(first), _shouted(first)]
        texts += [" ".join(second), " ".join(_replaced(second, 2, rng))]
        kinds += ["exact", "exact", "near", "near"]
    while len(texts) < len(ids):
        source = texts[rng.randrange(4 * _PLANTS)].lower().rstrip("!").split()
        decoy = len(texts) % 2
        texts.append(" ".join(_replaced(source, _WORDS // 2 if decoy else _WORDS, rng)))
        kinds.append("decoy" if decoy else "own")
    planted = pa.Table.from_pylist(
        [
            {
                "side": "item",
                "row": row,
                "id": entity,
                "field": _FIELD,
                "factor": "plot",
                "chunk": 0,
                "text": text,
                "status": "ok",
            }
            for row, (entity, text) in enumerate(zip(ids, texts, strict=True), 1)
        ],
        schema=knowledge.schema,
    )
    scored = with_quality(pa.concat_tables([knowledge, planted]))
    found = scored.filter(pc.equal(scored["field"], _FIELD)).to_pylist()
    by_kind: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for kind, row in zip(kinds, found, strict=True):
        by_kind[kind].append(row)
    return {
        "texts": len(texts),
        "exact_found": sum(row["copies"] == 2 for row in by_kind["exact"][1::2]),
        "near_found": sum(row["near_copies"] == 2 for row in by_kind["near"][1::2]),
        "decoys": len(by_kind["decoy"]),
        "false_alarms": sum(row["copies"] > 1 for row in by_kind["near"])
        + sum(row["near_copies"] > 1 for row in by_kind["decoy"] + by_kind["own"]),
    }


def _shouted(words: list[str]) -> str:
    """The same words in other case, spacing and punctuation."""
    return ",  ".join(words).upper() + "!"


def _replaced(words: list[str], count: int, rng: Random) -> list[str]:
    """With `count` words, at random places, replaced by words of their own."""
    places = set(rng.sample(range(len(words)), count))
    return [
        f"other{rng.randrange(_VOCABULARY)}" if place in places else word
        for place, word in enumerate(words)
    ]
