"""Tables of the study on CoLLM's split: figures and differences, on all, warm and cold rows."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lorecast.artifacts import Artifact
from lorecast.config.sella import Method
from lorecast.evaluation.comparison import Scored, measure
from lorecast.evaluation.metrics import auc, uauc
from lorecast.evaluation.results import Gain, Measured
from lorecast.evaluation.tables import Line, ends, gained, metric_name, of_seeds
from lorecast.evaluation.uncertainty import RESAMPLES
from lorecast.sella.methods import about

METRICS = ("auc", "uauc", "ndcg")
COMPARED = ("auc", "uauc")
ALL, WARM, COLD = "all", "warm", "cold"
LIGHTGCN, SASREC = "lightgcn", "sasrec"
_OTHERS = {LIGHTGCN: "LightGCN alone", SASREC: "SASRec alone, as a click model"}
"""Rows that are no methods."""
ANCHORS: Sequence[Line] = (
    {"method": "MF", "AUC": "0.6482", "UAUC": "0.6361", "NDCG": "0.8447"},
    {"method": "LightGCN", "AUC": "0.5959", "UAUC": "0.6499", "NDCG": "0.8564"},
    {"method": "SASRec", "AUC": "0.7078", "UAUC": "0.6884", "NDCG": "0.8612"},
    {"method": "text only (TALLRec, 7B)", "AUC": "0.7097", "UAUC": "0.6818", "NDCG": "0.8711"},
    {"method": "CoLLM-MF (7B)", "AUC": "0.7295", "UAUC": "0.6875", "NDCG": "0.8714"},
)
"""Published on the same split, with a language model of seven billion parameters."""


def scored(found: Mapping[str, Sequence[Artifact]]) -> Scored:
    """Every model's test scores, by row of the study."""
    first = next(iter(found.values()))[0]
    rows = pq.read_table(first.path / "scores.parquet")
    return Scored(
        user_B=rows["user_row"].to_numpy(),
        label_B=rows["label"].to_numpy(),
        arms={
            name: {model.facts["seed"]: _scores(model) for model in models}
            for name, models in found.items()
        },
    )


def by_seed(rows: Scored) -> dict[str, dict[str, list[float]]]:
    """AUC and UAUC of every model."""
    return {
        name: {
            "auc": [auc(rows.label_B, score_B) for score_B in seeds.values()],
            "uauc": [uauc(rows.user_B, rows.label_B, score_B) for score_B in seeds.values()],
        }
        for name, seeds in rows.arms.items()
    }


def gains(
    rows: Scored, parts: Mapping[str, NDArray[np.bool_]], pairs: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], dict[str, Mapping[str, Gain]]]:
    """What the first of each pair has over the second, by part and metric."""
    return {
        (ours, theirs): {part: _gain(rows, mask_B, ours, theirs) for part, mask_B in parts.items()}
        for ours, theirs in pairs
    }


def figures(rows: Scored, parts: Mapping[str, NDArray[np.bool_]]) -> list[Line]:
    """A line a method; warm and cold rows by AUC and UAUC."""
    measured = {
        part: _by_arm(rows.take(mask_B), METRICS if part == ALL else COMPARED)
        for part, mask_B in parts.items()
    }
    return [
        {
            "method": name,
            "what": _about(name),
            **{
                _column(metric, part): _figure(of_part[name], metric, part)
                for part, of_part in measured.items()
                for metric in of_part[name].figures
            },
        }
        for name in rows.arms
    ]


def differences(
    found: Mapping[tuple[str, str], Mapping[str, Mapping[str, Gain]]], parts: Sequence[str]
) -> list[Line]:
    """A line a pair."""
    return [
        {
            "difference": f"{ours} − {theirs}",
            **{
                _column(metric, part): gained(of_pair[part].get(metric))
                for metric in COMPARED
                for part in parts
            },
        }
        for (ours, theirs), of_pair in found.items()
    ]


def _by_arm(rows: Scored, metrics: Sequence[str]) -> dict[str, Measured]:
    return {each.arm: each for each in measure(rows, metrics, RESAMPLES)}


def _gain(rows: Scored, mask_B: NDArray[np.bool_], ours: str, theirs: str) -> Mapping[str, Gain]:
    both = {name: rows.arms[name] for name in (theirs, ours)}
    return _by_arm(replace(rows, arms=both).take(mask_B), COMPARED)[ours].gains


def _figure(measured: Measured, metric: str, part: str) -> str:
    figure = measured.figures[metric]
    if part != ALL or figure.low is None or figure.high is None:
        return of_seeds(figure)
    return f"{of_seeds(figure)} {ends(figure.low, figure.high).replace('+', '')}"


def _column(metric: str, part: str) -> str:
    name = metric_name(metric)
    return name if part == ALL else f"{name}, {part}"


def _about(name: str) -> str:
    return _OTHERS.get(name) or about(cast(Method, name))


def _scores(model: Artifact) -> NDArray[np.float32]:
    scores: NDArray[np.float32] = pq.read_table(model.path / "scores.parquet")["score"].to_numpy()
    return scores
