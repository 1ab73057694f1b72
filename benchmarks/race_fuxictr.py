"""Point 3f: lorecast against FuxiCTR, training rows/s of DIN and DCNv2, and test AUC.

Both train one epoch a turn on the same MovieLens-1M samples, one torch thread each, in turns. Ours
is the train job of point 1f: what its artifact records, so every batch's making is in it and the
reading of files is not. FuxiCTR's is its `fit` with its own loader and three worker processes (its
default), which may use the machine's other cores; its reading of files is not in it either.

Same features, embeddings of 32, attention [32, 16] with Dice, MLP [200, 80], three cross layers,
Adam at 1e-3 without decay, no dropout. What stays different, each by its own code:
FuxiCTR clips gradients and starts embeddings smaller; its DIN attends over a step's item and
categories and averages the ratings, where ours first maps all of a step to an item's width. DCNv2
is of FuxiCTR's parallel form in both: one linear layer ends it (`model.cross.head_hidden=[]`).

AUC: of the test part after that epoch, mean over the seeds of the turns at the first batch size.
"""

import os
import tempfile
import time
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks import peers
from benchmarks.harness import Outcome
from lorecast.artifacts import write_json
from lorecast.config import ExperimentConfig, load_config
from lorecast.data.batches import Samples, load_samples
from lorecast.data.dataset import Dataset
from lorecast.data.layout import Split
from lorecast.jobs import train
from lorecast.jobs.console import Console
from lorecast.jobs.pipeline import Pipeline
from lorecast.training.splits import Splits

BAR = "DIN ≥ 2 ×, DCNv2 ≥ 1.15 × FuxiCTR's rows/s at batch 1024 and 4096, AUC not below"
_BAR_RATIOS = {"DIN": 2.0, "DCNv2": 1.15}
_BATCH_SIZES = (1024, 4096)
_REPEATS = 3
_SPLITS: tuple[Split, ...] = ("train", "test")
_MEAN = "layers.MaskedAveragePooling()"
_PARAMS = {
    "dataset_id": "race",
    "data_format": "parquet",
    "num_workers": 3,
    "shuffle": True,
    "verbose": 0,
    "model_root": "",
    "group_id": "user",
    "metrics": ["AUC", "logloss", "gAUC"],
    "loss": "binary_crossentropy",
    "optimizer": "adam",
    "learning_rate": 1e-3,
    "embedding_dim": 32,
    "embedding_regularizer": 0,
    "net_regularizer": 0,
    "net_dropout": 0,
}
"""Of FuxiCTR's YAML, what both models share."""
_ROOT = Path(__file__).parents[1]


def measure() -> Outcome:
    fuxictr = peers.checkout(peers.FUXICTR)
    dataset = Pipeline(_config("DIN", _BATCH_SIZES[0]), Console()).dataset
    cells = [(model, batch_size) for model in _BAR_RATIOS for batch_size in _BATCH_SIZES]
    turns: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="lorecast-race-") as place:
        _export(dataset, Path(place))
        for seed in range(_REPEATS):
            for model, batch_size in cells:
                ours = _ours(_config(model, batch_size), dataset, seed)
                job = _job(dataset, model, batch_size, seed) | {"folder": place}
                theirs = peers.drive("fuxictr_train.py", fuxictr, job)
                turns.append(
                    {
                        "model": model,
                        "batch_size": batch_size,
                        "seed": seed,
                        "ratio": ours["rows_per_second"] / theirs["rows_per_second"],
                        "lorecast": ours,
                        "fuxictr": theirs,
                        "load_1min": os.getloadavg()[0],
                    }
                )
    ratios = {cell: median(turn["ratio"] for turn in _of(turns, *cell)) for cell in cells}
    auc = {
        model: {
            who: mean(turn[who]["test"][key] for turn in _of(turns, model, _BATCH_SIZES[0]))
            for who, key in (("lorecast", "auc"), ("fuxictr", "AUC"))
        }
        for model in _BAR_RATIOS
    }
    fast = all(ratio >= _BAR_RATIOS[model] for (model, _), ratio in ratios.items())
    as_good = all(of["lorecast"] >= of["fuxictr"] for of in auc.values())
    started_s = time.monotonic()
    rows = len(Splits.load(dataset, None).train)
    return Outcome(
        figure="; ".join(
            f"{model} "
            + " and ".join(f"{ratios[model, size]:.2f} ×" for size in _BATCH_SIZES)
            + f" FuxiCTR's rows/s, AUC {auc[model]['lorecast']:.4f} to {auc[model]['fuxictr']:.4f}"
            for model in _BAR_RATIOS
        ),
        passed=fast and as_good,
        details={
            "ratios": {
                f"{model} {batch_size}": ratio for (model, batch_size), ratio in ratios.items()
            },
            "auc": auc,
            "turns": turns,
            "rows": rows,
            "lorecast_open_s": time.monotonic() - started_s,
            "fuxictr": peers.identity(fuxictr),
            "peers_versions": peers.versions(),
        },
    )


def _of(turns: list[dict[str, Any]], model: str, batch_size: int) -> list[dict[str, Any]]:
    return [turn for turn in turns if (turn["model"], turn["batch_size"]) == (model, batch_size)]


def _config(model: str, batch_size: int) -> ExperimentConfig:
    data = Path(os.environ.get("LORECAST_TEST_DATA", _ROOT.parent / "shared" / "data"))
    return load_config(
        _ROOT / "configs" / "ml-1m.yaml",
        [
            f"dataset.path={data / 'ml-1m'}",
            f"model.backbone={model.lower()}",
            "model.cross.head_hidden=[]",
            "training.strategies=[base]",
            "training.epochs=1",
            f"training.batch_size={batch_size}",
            f"compute.workspace={_ROOT / 'workspace'}",
            "compute.threads=1",
        ],
    )


def _ours(config: ExperimentConfig, dataset: Dataset, seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="lorecast-race-") as scratch:
        compute = config.compute.model_copy(update={"workspace": scratch})
        made = train.run(
            config.model_copy(update={"compute": compute}), dataset, None, "base", seed, Console()
        )
        facts = made.facts
    return {
        "rows_per_second": float(facts["rows_per_second"]),
        "train_s": facts["seconds"],
        "parameters": facts["parameters"],
        "test": facts["metrics"]["test"],
    }


def _job(dataset: Dataset, model: str, batch_size: int, seed: int) -> dict[str, Any]:
    """What FuxiCTR is told, but for the folder."""
    attended = ["hist_item", *(f"hist_{name}" for name in dataset.schema.item_features)]
    of_model: dict[str, dict[str, Any]] = {
        "DIN": {
            "attention_hidden_units": [32, 16],
            "attention_hidden_activations": "Dice",
            "dnn_hidden_units": [200, 80],
            "dnn_activations": "relu",
            "din_target_field": [[name.replace("hist", "target", 1) for name in attended]],
            "din_sequence_field": [attended],
        },
        "DCNv2": {
            "model_structure": "parallel",
            "num_cross_layers": 3,
            "parallel_dnn_hidden_units": [200, 80],
            "dnn_activations": "relu",
            "feature_specs": [{"name": attended, "feature_encoder": _MEAN}],
        },
    }
    params = _PARAMS | of_model[model] | {"batch_size": batch_size}
    # The test part is scored once a seed: at the batch size whose AUC is compared.
    evaluate = batch_size == _BATCH_SIZES[0]
    return {"model": model, "seed": seed, "evaluate": evaluate, "params": params}


def _export(dataset: Dataset, folder: Path) -> None:
    """Writes our samples as FuxiCTR's prepared Parquet, and its feature map."""
    for split in _SPLITS:
        columns = _columns(dataset, load_samples(dataset, split))
        pq.write_table(pa.table(columns), folder / f"{split}.parquet")
    schema = dataset.schema
    sizes = {"item": schema.num_items, **schema.item_features}
    features: dict[str, dict[str, Any]] = {"user": {"type": "meta"}}
    for name, size in sizes.items():
        features[f"target_{name}"] = _categorical(size)
    for name, size in sizes.items():
        features[f"hist_{name}"] = _sequence(dataset, size, share_embedding=f"target_{name}")
    features["hist_rating"] = _sequence(dataset, schema.num_rating_levels, feature_encoder=_MEAN)
    for name, size in schema.user_features.items():
        features[f"user_{name}"] = _categorical(size)
    width = sum(spec.get("max_len", 1) for spec in features.values())
    write_json(
        folder / "feature_map.json",
        {
            "dataset_id": _PARAMS["dataset_id"],
            "num_fields": len(features) - 1,
            "total_features": sum(spec.get("vocab_size", 0) for spec in features.values()),
            "input_length": width,
            "labels": ["label"],
            "features": [{name: spec} for name, spec in features.items()],
        },
    )


def _columns(dataset: Dataset, samples: Samples) -> dict[str, NDArray[Any] | pa.Array]:
    item_codes, user_codes = dataset.feature_codes("item"), dataset.feature_codes("user")
    item_B, history_BL = samples.item_row_B, samples.history_item_BL
    columns: dict[str, NDArray[Any] | pa.Array] = {
        "user": samples.user_row_B,
        "target_item": item_B,
        "hist_item": _lists(history_BL),
        "hist_rating": _lists(samples.history_rating_BL.astype(np.int32)),
        "label": samples.label_B.astype(np.float64),
    }
    for place, name in enumerate(dataset.schema.item_features):
        columns[f"target_{name}"] = item_codes[item_B, place]
        columns[f"hist_{name}"] = _lists(item_codes[history_BL, place])
    for place, name in enumerate(dataset.schema.user_features):
        columns[f"user_{name}"] = user_codes[samples.user_row_B, place]
    return columns


def _lists(values_BL: NDArray[np.int32]) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values_BL.ravel()), values_BL.shape[1])


def _categorical(size: int) -> dict[str, Any]:
    return {"type": "categorical", "source": "", "padding_idx": 0, "vocab_size": size + 1}


def _sequence(dataset: Dataset, size: int, **more: str) -> dict[str, Any]:
    shape = {"type": "sequence", "max_len": dataset.history_length}
    return _categorical(size) | shape | more
