"""Point 4i: vLLM with prompts as embeddings against our own forward pass, on the world's SeLLa.

The model of configs/world-sella.yaml, seed 0, in float32, after some minutes of training; test rows
of users drawn whole, one torch thread, one process. Both score the same rows in turns, new ones in
each of three rounds, so that vLLM's kept prefixes are of the round itself; one more round before
warms up. vLLM's start is apart. A copy of the model has its language model beside it, wherever the
one it names has gone.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.harness import Outcome
from benchmarks.studies.sella_rows import dataset_of, model_folder, trained, world
from lorecast.jobs import sella_vllm, vllm_engine
from lorecast.knowledge.language_model import find_language_model
from lorecast.sella.rows import PromptRows
from lorecast.sella.saved import LLM
from lorecast.sella.scorer import SellaScorer
from lorecast.world import llm_path

BAR = "probabilities within 1e-3 in float32; rows/s of both are published"
_BAR_DIFFERENCE = 1e-3
_ROUNDS, _ROWS, _BATCH = 3, 500, 256
_SHORT = (
    "training.seeds=[0]",
    "dataset.split.test=0.1",
    "sella.tune.rows=2000",
    "sella.guide.rows=2000",
    "sella.guide.epochs=1",
    "sella.valid_rows=1000",
)
Score = Callable[[PromptRows], NDArray[np.float32]]


def measure() -> Outcome:
    os.environ |= {"OMP_NUM_THREADS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    os.environ |= vllm_engine.environment(find_language_model(str(llm_path())), 0.0)
    torch.set_num_threads(1)
    config = world(("sella",), *_SHORT)
    assert config.sella is not None
    (scored,) = trained(config)["sella"]
    rows = PromptRows.load(dataset_of(config), "test", config.sella, config.dataset.positive_rating)
    parts = _parts(rows, _ROUNDS + 1, _ROWS)
    with tempfile.TemporaryDirectory(prefix="lorecast-sella-vllm-") as scratch:
        folder = Path(scratch) / "model"
        shutil.copytree(model_folder(scored), folder)
        (folder / LLM).symlink_to(llm_path())
        scorer = SellaScorer.load(folder, batch_size=_BATCH)
        started_s = time.monotonic()
        by_vllm = sella_vllm.scoring(folder, _BATCH, on_gpu=False)
        start_s = time.monotonic() - started_s
    turns = [_turn(scorer.score_rows, by_vllm, part) for part in parts][1:]
    worst = max(turn["difference"] for turn in turns)
    ratio = median(turn["vllm"] / turn["torch"] for turn in turns)
    ours, theirs = (median(turn[who] for turn in turns) for who in ("torch", "vllm"))
    measured = parts[1:]
    return Outcome(
        figure=(
            f"largest difference {worst:.1e} of {sum(map(len, measured))} probabilities; "
            f"vLLM {theirs:.0f} rows/s, our forward pass {ours:.0f} ({ratio:.2f} ×), one thread"
        ),
        passed=worst <= _BAR_DIFFERENCE,
        details={
            "rounds": turns,
            "rows": [len(part) for part in measured],
            "rows_a_prefix": [len(part) / len(np.unique(part.prefixes())) for part in measured],
            "vllm_start_s": round(start_s, 1),
            "torch_threads": torch.get_num_threads(),
        },
    )


def _parts(rows: PromptRows, count: int, size: int) -> list[PromptRows]:
    """Rows of so many groups of users, about `size` rows each, in the order of a seed."""
    users, user_B, rows_U = np.unique(rows.user_row_B, return_inverse=True, return_counts=True)
    order = np.random.default_rng(0).permutation(len(users))
    part_U = np.empty(len(users), np.int64)
    part_U[order] = (np.cumsum(rows_U[order]) - rows_U[order]) // size
    return [rows.take(np.flatnonzero(part_U[user_B] == part)) for part in range(count)]


def _turn(ours: Score, theirs: Score, rows: PromptRows) -> dict[str, Any]:
    """Rows/s of both, and how far their scores are apart."""
    found, seconds = {}, {}
    for name, score in (("torch", ours), ("vllm", theirs)):
        started_s = time.monotonic()
        found[name] = score(rows)
        seconds[name] = time.monotonic() - started_s
    return {
        **{name: len(rows) / taken_s for name, taken_s in seconds.items()},
        "difference": float(np.abs(found["torch"] - found["vllm"]).max()),
        "spread": float(np.ptp(found["torch"])),
        "load_1min": os.getloadavg()[0],
    }
