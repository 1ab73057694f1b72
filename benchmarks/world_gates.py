"""Point 3b: what ESFNet selects on the embedded world, and what each part of KSER is worth there.

A chunk's gate is its mean over the test rows, by entity; the world's truth tells which answers are
right. `stock` is the same for all films (homogenised), `palette` repeats the mood (redundant). All
figures are means over five seeds of DIN with KSER, all parameters trained.
"""

import json
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from benchmarks.harness import Outcome
from benchmarks.studies.tables import PAIRED, difference, lines, on_test, write_part
from benchmarks.studies.world_rows import ABLATIONS, PAGE, SEEDS, TITLE, ablations, grid, methods
from benchmarks.world_methods import summary
from lorecast.artifacts import Artifact
from lorecast.config import ModelConfig, Side, load_config
from lorecast.data.batches import load_samples
from lorecast.data.dataset import Dataset
from lorecast.encoding.vectors import VectorsTable
from lorecast.evaluation.metrics import auc
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
    "gate of true chunks over hallucinated ones AUC ≥ 0.65; homogenised and redundant factors "
    "lowest; without ESFNet and without alignment each worse; shuffled within 0.005 of base"
)
_BAR_GATE_AUC = 0.65
_BAR_SHUFFLED = 0.005
_EMPTY = ("palette", "stock")
_BATCH = 4096


def measure() -> Outcome:
    study = grid((*methods("din"), *ablations()))
    found = study.run()
    pipeline = Pipeline(study.experiment(), Console())
    dataset, vectors = pipeline.dataset, VectorsTable.open(pipeline.encode().path)
    truth = _truth(pipeline, dataset, vectors)
    gates = [_mean_gates(model, dataset, vectors) for model in found["din: kser"]]
    apart = {side: [_gate_auc(gate[side], truth[side]) for gate in gates] for side in truth}
    both = [
        _gate_auc(*(np.concatenate([t.ravel() for t in x.values()]) for x in (gate, truth)))
        for gate in gates
    ]
    factors = _by_factor(gates, vectors)
    lowest = {
        side: set(sorted(of_side, key=of_side.__getitem__)[: len(_EMPTY)])
        for side, of_side in factors.items()
    }
    full, base = on_test(found["din: kser"]), on_test(found["din: base"])
    worse = {}
    for name in ABLATIONS:
        paired = seed_test(on_test(found[f"din: {name}"]) - full)
        assert paired is not None
        worse[name] = paired._asdict()
    shuffled = float((on_test(found["din: shuffled"]) - base).mean())
    needs = ("without ESFNet", "without alignment")
    passed = {
        "gate": float(np.mean(both)) >= _BAR_GATE_AUC,
        "lowest": all(low == set(_EMPTY) for low in lowest.values()),
        "parts": all(worse[name]["mean"] < 0 for name in needs),
        "shuffled": abs(shuffled) <= _BAR_SHUFFLED,
    }
    _tell(found, factors, apart)
    return Outcome(
        figure=(
            f"gate AUC {np.mean(both):.3f} (items {np.mean(apart['item']):.3f}, users "
            f"{np.mean(apart['user']):.3f}); lowest gates: items {_words(lowest['item'])}, users "
            f"{_words(lowest['user'])}; test AUC against full KSER: "
            + ", ".join(f"{name} {worse[name]['mean']:+.4f}" for name in needs)
            + f"; shuffled against base {shuffled:+.4f}"
        ),
        passed=all(passed.values()),
        details={
            "holds": passed,
            "gate_auc": {"both": both, **apart},
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


def _gate_auc(gate: NDArray[np.float64], truth: NDArray[np.float64]) -> float:
    known = ~np.isnan(truth) & ~np.isnan(gate)
    return auc(truth[known], gate[known])


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
    apart: Mapping[Side, Sequence[float]],
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
        f"`make bar P=3b`: DIN, {len(SEEDS)} seeds. {PAIRED}",
        markdown(rows),
        "ESFNet's mean weight of each factor's texts over the test rows and seeds. `stock` is the "
        "same for all films, `palette` repeats the mood. Right texts against wrong ones, AUC of "
        "the weight: " + ", ".join(f"{side}s {np.mean(x):.3f}" for side, x in apart.items()) + ".",
        markdown(gates),
    )
    write_part(PAGE, TITLE, "Parts of KSER on DIN", paragraphs)


def _words(names: set[str]) -> str:
    return " and ".join(sorted(names))
