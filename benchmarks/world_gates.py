"""Point 3b: what ESFNet selects on the embedded world, and what each part of KSER is worth there.

A chunk's gate is its mean over the test rows, by entity; the world's truth tells which answers are
right. Factors differ in what they are worth, so gates are held against the truth within a factor:
the mean of the factors' AUC, and the AUC of all texts together beside it. A wrong text reads like a
right one, so gates are told the language model's certainty. `stock` is the same for all films
(homogenised), `palette` repeats the mood (redundant). All figures are means over five seeds of DIN
with KSER, all parameters trained.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from benchmarks.harness import Outcome
from benchmarks.studies.grid import Row
from benchmarks.studies.tables import PAIRED, difference, lines, on_test, write_part
from benchmarks.studies.world_rows import (
    ABLATIONS,
    CERTAINTY,
    PAGE,
    SEEDS,
    TITLE,
    ablations,
    grid,
    methods,
)
from benchmarks.world_methods import summary
from lorecast.artifacts import Artifact
from lorecast.config import ModelConfig, Side, load_config
from lorecast.data.batches import load_samples
from lorecast.data.dataset import Dataset
from lorecast.encoding.vectors import VectorsTable
from lorecast.evaluation.metrics import auc, uauc
from lorecast.evaluation.tables import markdown
from lorecast.evaluation.uncertainty import seed_test
from lorecast.jobs.console import Console
from lorecast.jobs.pipeline import Pipeline
from lorecast.knowledge import rows
from lorecast.models.click_model import ClickModel
from lorecast.models.feature_tables import feature_tables
from lorecast.models.inputs import Batch
from lorecast.models.knowledge import KnowledgeShape
from lorecast.training.trainer import WEIGHTS
from lorecast.world import generate
from lorecast.world.facts_audit import with_truth

BAR = (
    "gate of true chunks over hallucinated ones, within factors, AUC ≥ 0.65; homogenised and "
    "redundant factors lowest; without ESFNet and without alignment each worse; shuffled within "
    "0.005 of base"
)
_BAR_GATE_AUC = 0.65
_BAR_SHUFFLED = 0.005
_EMPTY = ("palette", "stock")
_BATCH = 4096
_BLIND = Row("din: gates without certainty", "all_parameters", ("model.kser.certainty=false",))
_PARTS: Final[Mapping[str, tuple[Side, ...]]] = {
    "both": ("item", "user"),
    "item": ("item",),
    "user": ("user",),
}


class _Apart(NamedTuple):
    """AUC of right texts against wrong ones."""

    within: float
    """Mean over the factors of each side that have both."""
    pooled: float


def measure() -> Outcome:
    study = grid((*methods("din"), *ablations(), _BLIND), CERTAINTY)
    found = study.run()
    pipeline = Pipeline(study.experiment(), Console())
    dataset, vectors = pipeline.dataset, VectorsTable.open(pipeline.encode().path)
    truth = _truth(pipeline, dataset, vectors)
    gates = [_mean_gates(model, dataset, vectors) for model in found["din: kser"]]
    apart = {
        part: [_told_apart(gate, truth, sides) for gate in gates] for part, sides in _PARTS.items()
    }
    within = {part: float(np.mean([a.within for a in each])) for part, each in apart.items()}
    pooled = {part: float(np.mean([a.pooled for a in each])) for part, each in apart.items()}
    certainty = {
        part: _told_apart(_certainty(vectors), truth, sides) for part, sides in _PARTS.items()
    }
    factors = _by_factor(gates, vectors)
    lowest = {
        side: set(sorted(of_side, key=of_side.__getitem__)[: len(_EMPTY)])
        for side, of_side in factors.items()
    }
    full, base = on_test(found["din: kser"]), on_test(found["din: base"])
    worse = {}
    for name in (*ABLATIONS, _BLIND.name.removeprefix("din: ")):
        paired = seed_test(on_test(found[f"din: {name}"]) - full)
        assert paired is not None
        worse[name] = paired._asdict()
    shuffled = float((on_test(found["din: shuffled"]) - base).mean())
    needs = ("without ESFNet", "without alignment")
    passed = {
        "gate": within["both"] >= _BAR_GATE_AUC,
        "lowest": all(low == set(_EMPTY) for low in lowest.values()),
        "parts": all(worse[name]["mean"] < 0 for name in needs),
        "shuffled": abs(shuffled) <= _BAR_SHUFFLED,
    }
    _tell(found, factors, within, pooled, certainty)
    return Outcome(
        figure=(
            f"gate AUC within factors {_by_part(within)}, pooled "
            f"{_by_part(pooled)}; lowest gates: items {_words(lowest['item'])}, users "
            f"{_words(lowest['user'])}; test AUC against full KSER: "
            + ", ".join(f"{name} {worse[name]['mean']:+.4f}" for name in needs)
            + f"; shuffled against base {shuffled:+.4f}"
        ),
        passed=all(passed.values()),
        details={
            "holds": passed,
            "gate_auc": {part: [a._asdict() for a in each] for part, each in apart.items()},
            "certainty_auc": {part: a._asdict() for part, a in certainty.items()},
            "share_true": {side: float(np.nanmean(t)) for side, t in truth.items()},
            "mean_gate": factors,
            "against_full": worse,
            "rows": {name: summary(models) for name, models in found.items()},
        },
    )


def _truth(
    pipeline: Pipeline, dataset: Dataset, vectors: VectorsTable
) -> dict[Side, NDArray[np.float64]]:
    """[rows + 1, C] a side: 1 for a right answer, 0 for a wrong one, NaN where none is judged."""
    table = pq.read_table(pipeline.generate().path / rows.KNOWLEDGE)
    config = load_config(None)
    judged = with_truth(
        table,
        generate(config.dataset.world_seed),
        dataset,
        config.knowledge.prompt_history,
        config.dataset.positive_rating,
    )
    found: dict[Side, NDArray[np.float64]] = {}
    for side in ("item", "user"):
        names = [name.factor for name in vectors.chunks(side)]
        truth = np.full(vectors.mask(side).shape, np.nan)
        own = judged.filter(pa.compute.equal(judged["side"], side))
        own = own.filter(own["right"].is_valid())
        place = np.array([names.index(factor) for factor in own["factor"].to_pylist()])
        truth[own["row"].to_numpy(), place] = own["right"].to_numpy(zero_copy_only=False)
        found[side] = truth
    return found


def _mean_gates(
    artifact: Artifact, dataset: Dataset, vectors: VectorsTable
) -> dict[Side, NDArray[np.float64]]:
    """[rows + 1, C] a side: the mean gate of each entity's chunk over its test rows, else NaN."""
    card = json.loads((artifact.path / "model.json").read_text())
    shape = KnowledgeShape.from_dict(card["knowledge"])
    model = ClickModel(ModelConfig.model_validate(card["config"]), dataset.schema, shape)
    model.attach(*feature_tables(dataset), vectors)
    model.load_state_dict(load_file(artifact.path / WEIGHTS))
    batch = Batch.of(load_samples(dataset, "test"))
    with torch.inference_mode():
        parts = [
            model.eval().gates(batch.slice(start, start + _BATCH))[0]
            for start in range(0, len(batch), _BATCH)
        ]
    gate_BC = torch.cat(parts).double().numpy()
    found: dict[Side, NDArray[np.float64]] = {}
    first = 0
    for side, row_B in (("item", batch.item_row_B), ("user", batch.user_row_B)):
        mask = vectors.mask(side)
        total = np.zeros(mask.shape)
        np.add.at(total, row_B.numpy(), gate_BC[:, first : first + mask.shape[1]])
        count = np.bincount(row_B.numpy(), minlength=len(mask))[:, None]
        with np.errstate(invalid="ignore", divide="ignore"):
            found[side] = np.where(mask, total / count, np.nan)
        first += mask.shape[1]
    return found


def _certainty(vectors: VectorsTable) -> dict[Side, NDArray[np.float64]]:
    """[rows + 1, C] a side, NaN where there is no text."""
    found: dict[Side, NDArray[np.float64]] = {}
    for side in _PARTS["both"]:
        certainty = vectors.certainty(side)
        assert certainty is not None, "the study asks for it"
        found[side] = np.where(vectors.mask(side), certainty.astype(np.float64), np.nan)
    return found


def _told_apart(
    score: Mapping[Side, NDArray[np.float64]],
    truth: Mapping[Side, NDArray[np.float64]],
    sides: Sequence[Side],
) -> _Apart:
    """Right texts against wrong ones, by their scores."""
    factors, truths, scores = [], [], []
    for number, side in enumerate(sides):
        known = ~np.isnan(truth[side]) & ~np.isnan(score[side])
        factor = len(sides) * np.arange(known.shape[1]) + number
        factors.append(np.broadcast_to(factor, known.shape)[known])
        truths.append(truth[side][known])
        scores.append(score[side][known])
    factor_N, truth_N, score_N = map(np.concatenate, (factors, truths, scores))
    return _Apart(uauc(factor_N, truth_N, score_N), auc(truth_N, score_N))


def _by_factor(
    gates: list[dict[Side, NDArray[np.float64]]], vectors: VectorsTable
) -> dict[Side, dict[str, float]]:
    """Mean gate by factor, over entities and seeds."""
    return {
        side: {
            name.factor: float(np.mean([np.nanmean(gate[side][:, place]) for gate in gates]))
            for place, name in enumerate(vectors.chunks(side))
        }
        for side in ("item", "user")
    }


def _tell(
    found: Mapping[str, Sequence[Artifact]],
    factors: Mapping[Side, Mapping[str, float]],
    within: Mapping[str, float],
    pooled: Mapping[str, float],
    certainty: Mapping[str, _Apart],
) -> None:
    rows = [
        line | {"AUC − din: kser": difference(found[line["row"]], found["din: kser"])}
        for line in lines(found, "din: base")
    ]
    gates = [
        {"side": side, "factor": factor, "mean gate": f"{mean:.3f}"}
        for side, of_side in factors.items()
        for factor, mean in sorted(of_side.items(), key=lambda pair: -pair[1])
    ]
    paragraphs = (
        f"`make bar P=3b`: DIN, {len(SEEDS)} seeds; gates see the language model's certainty "
        f"(`model.kser.certainty`) in all rows but one. {PAIRED}",
        markdown(rows),
        "ESFNet's mean weight of each factor's texts over the test rows and seeds. `stock` is the "
        "same for all films, `palette` repeats the mood. Right texts against wrong ones, AUC of "
        f"the weight within a factor, mean over factors: {_by_part(within)}; of all texts "
        f"together: {_by_part(pooled)}. Of the certainty itself, within a factor: "
        f"{_by_part({part: each.within for part, each in certainty.items()})}.",
        markdown(gates),
    )
    write_part(PAGE, TITLE, "Parts of KSER on DIN", paragraphs)


def _by_part(figures: Mapping[str, float]) -> str:
    """Of both sides together, and of each."""
    return f"{figures['both']:.3f} (items {figures['item']:.3f}, users {figures['user']:.3f})"


def _words(names: set[str]) -> str:
    return " and ".join(sorted(names))
