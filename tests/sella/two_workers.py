"""Trainings that one process and two do alike: each gives its weights and what it saw of itself."""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed, multiprocessing, nn
from torch.nn import functional as F  # noqa: N812

from lorecast.config import AlignConfig, GuideConfig, PromptConfig
from lorecast.config.sella import LoRAConfig
from lorecast.sella.collaborative import CollaborativeLearner, CollaborativeModel
from lorecast.sella.fitting import Schedule, fit
from lorecast.sella.guide import Guide
from lorecast.sella.language import AnsweringModel
from lorecast.sella.methods import switches
from lorecast.sella.prompts import Prompts
from lorecast.sella.rows import PromptRows
from lorecast.sella.yes_no import YesNoLearner, YesNoModel
from lorecast.training.checkpoints import Checkpoints
from tests.sella.tiny_llm import write_tiny_llm

_PROCESSES = 2
_TIMEOUT = timedelta(seconds=60)
LINE_ROWS = 301
"""Batches of 30 leave one row over, which two processes cannot share."""
CUT_OFF_AFTER = 7
_FIGURES = ("train_loss", "auc", "uauc", "log_loss")
Told = tuple[dict[str, Tensor], object]
"""Weights, and what else is to be compared."""


class _Line(nn.Module):
    """Logistic regression on planted rows, in pairs that belong together."""

    divides = True

    def __init__(self) -> None:
        super().__init__()
        rng = np.random.default_rng(0)
        self._x = torch.from_numpy(rng.normal(size=(LINE_ROWS, 4)).astype(np.float32))
        self._y = (self._x[:, 0] > 0).float()
        torch.manual_seed(0)
        self.linear = nn.Linear(4, 1)
        self.seen: list[list[int]] = []

    def forward(self, index_B: NDArray[np.int64]) -> Tensor:
        self.seen.append(index_B.tolist())
        logit_B = self.linear(self._x[index_B])[:, 0]
        return F.binary_cross_entropy_with_logits(logit_B, self._y[index_B])

    def shapes(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return np.arange(LINE_ROWS) // 2, np.arange(LINE_ROWS) // 2 % 7

    def __len__(self) -> int:
        return LINE_ROWS

    def validate(self) -> dict[str, float]:
        """What rank 0 finds never rises; what others find always does."""
        rank = distributed.get_rank() if distributed.is_initialized() else 0
        return {"auc": 0.5 + 0.01 * rank * len(self.seen), "uauc": 0.5, "log_loss": 0.7}


def line(_folder: Path) -> Told:
    """Unequal shares, one of them empty; ended by patience."""
    learner = _Line()
    trained = fit(learner, _schedule(epochs=9, checks=2, batch_size=30, patience=3), seed=0)
    told = {"checks": [check["train_loss"] for check in trained.checks], "seen": learner.seen}
    return learner.state_dict(), told


def resumed_line(folder: Path) -> Told:
    """Like `line`, cut off and taken up again."""
    checkpoints = Checkpoints(folder / f"checkpoint-of-{_count()}.safetensors", every_s=0.0)
    schedule = _schedule(epochs=9, checks=2, batch_size=30, patience=3)
    steps = 0

    def stop(_: int) -> None:
        nonlocal steps
        steps += 1
        if steps > CUT_OFF_AFTER:
            raise KeyboardInterrupt

    with suppress(KeyboardInterrupt):
        fit(_Line(), schedule, seed=0, checkpoints=checkpoints, on_rows=stop)
    if _count() > 1:
        distributed.barrier()  # until rank 0 has written its checkpoint
    learner = _Line()
    trained = fit(learner, schedule, seed=0, checkpoints=checkpoints)
    told = {"checks": [check["train_loss"] for check in trained.checks], "seen": learner.seen}
    return learner.state_dict(), told


def adapters(folder: Path, *, sharded: bool = False) -> Told:
    """Stage 1 on a tiny language model, in micro batches; validation rows that do not divide."""
    language = AnsweringModel.load(str(folder / "llm"))
    torch.manual_seed(0)
    language.add_adapters(LoRAConfig(rank=2, dropout=0.0))
    titles = [f"Film {number}" for number in range(1, 41)]
    prompts = Prompts(language.tokenizer, titles, PromptConfig(), switches("text"))
    if sharded and _count() > 1:
        language.shard()
        layer = language.causal.get_decoder().layers[0].mlp.up_proj.base_layer.weight
        assert layer.to_local().numel() == layer.numel() / 2, "each process has its half"
    model = YesNoModel(language, prompts, None)
    learner = YesNoLearner(model, _rows(33, seed=1), _rows(31, seed=2), score_batch=8)
    schedule = _schedule(checks=2, batch_size=11, micro_batch=4, learning_rate=1e-3)
    checks = fit(learner, schedule, seed=0).checks
    weights = {n: p for n, p in learner.named_parameters() if p.requires_grad}
    return weights, [[check[name] for name in _FIGURES] for check in checks]


def sharded_adapters(folder: Path) -> Told:
    """Like `adapters`, the frozen layers divided between the processes."""
    return adapters(folder, sharded=True)


def tokens(folder: Path) -> Told:
    """Stage 3: tokens before a language model that is frozen, divided, and run again."""
    language = AnsweringModel.load(str(folder / "llm"))
    titles = [f"Film {number}" for number in range(1, 41)]
    prompts = Prompts(language.tokenizer, titles, PromptConfig(), switches("collm"))
    torch.manual_seed(0)
    sizes = {"user": 20, "item": 41, "width": language.width}
    align, config = AlignConfig(dim=4, hidden=8), GuideConfig(unknown_share=0.0)
    model = YesNoModel(language, prompts, Guide(switches("collm"), align, config, sizes))
    language.recompute()
    if _count() > 1:
        language.shard()
    learner = YesNoLearner(model, _rows(33, seed=1), _rows(31, seed=2), score_batch=8)
    schedule = _schedule(checks=1, batch_size=11, micro_batch=4, learning_rate=1e-3)
    before = language.digest()
    checks = fit(learner, schedule, seed=0).checks
    assert language.digest() == before
    weights = {n: p for n, p in learner.named_parameters() if p.requires_grad}
    return weights, [[check[name] for name in _FIGURES] for check in checks]


def aligned(_folder: Path) -> Told:
    """Stage 2.2: a contrast over the whole batch, however many processes there are."""
    torch.manual_seed(0)
    semantic_RH = np.random.default_rng(0).normal(size=(41, 6)).astype(np.float32)
    model = CollaborativeModel(AlignConfig(dim=4, hidden=8), 60, 40, semantic_RH)
    learner = CollaborativeLearner(model, _rows(150, seed=1), _rows(60, seed=2))
    checks = fit(learner, _schedule(checks=1, batch_size=32), seed=0).checks
    return learner.state_dict(), [[check["train_loss"], check["auc"]] for check in checks]


TRAININGS: dict[str, Callable[[Path], Told]] = {
    "line": line,
    "resumed_line": resumed_line,
    "adapters": adapters,
    "sharded_adapters": sharded_adapters,
    "tokens": tokens,
    "aligned": aligned,
}


def train_in_two(folder: Path) -> None:
    """All trainings in two processes; each leaves what `read_told` finds."""
    write_tiny_llm(folder / "llm")
    multiprocessing.start_processes(_work, (folder,), _PROCESSES, start_method="spawn")


def read_told(folder: Path, name: str, rank: int) -> Told:
    """What a process told of a training."""
    told = json.loads((folder / f"{name}-{rank}.json").read_text())
    return load_file(folder / f"{name}-{rank}.safetensors"), told


def _work(rank: int, folder: Path) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=_PROCESSES,
        timeout=_TIMEOUT,
    )
    for name, train in TRAININGS.items():
        weights, told = train(folder)
        weights = {key: value.detach().clone() for key, value in weights.items()}
        save_file(weights, folder / f"{name}-{rank}.safetensors")
        (folder / f"{name}-{rank}.json").write_text(json.dumps(told))
    distributed.destroy_process_group()


def _schedule(**changes: float) -> Schedule:
    values = {"epochs": 2, "learning_rate": 0.05, "weight_decay": 0.01, **changes}
    return Schedule(**values)  # type: ignore[arg-type]


def _rows(count: int, *, seed: int) -> PromptRows:
    """Some three rows of each user, who has liked the same few films before all of them."""
    rng = np.random.default_rng(seed)
    user_B = np.sort(rng.integers(1, count // 3, count)).astype(np.int32)
    liked_UM = rng.integers(0, 41, (count, 3)).astype(np.int32)
    return PromptRows(
        user_row_B=user_B,
        item_row_B=rng.integers(1, 41, count).astype(np.int32),
        liked_BM=np.sort(liked_UM, axis=1)[user_B],
        label_B=rng.integers(0, 2, count).astype(np.float32),
    )


def _count() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1
