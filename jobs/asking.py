"""Blocks of prompts through engine actors into the knowledge store.

An actor writes a block's answers to the store under a name made of their keys, and returns only
counts. A block that Ray hands out a second time is found written and costs nothing, so a killed
run pays at most one block an engine twice.
"""

import json
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lorecast.config import ComputeConfig
from lorecast.errors import EngineError
from lorecast.jobs.blocks import Columns, map_blocks, open_block
from lorecast.knowledge.answers import judge
from lorecast.knowledge.engine import Engine
from lorecast.knowledge.store import SCHEMA, KnowledgeStore

MakeEngine = Callable[[], Engine]


@dataclass(frozen=True, kw_only=True)
class BlockCounts:
    """What one block of prompts came to."""

    asked: int
    failed: int
    reason: str
    """Of the first failure."""
    prompt_tokens: int
    output_tokens: int
    seconds: float
    """Inside the engine."""


@dataclass
class Tally:
    """Counts of all blocks so far."""

    asked: int = 0
    failed: int = 0
    reason: str = ""
    """Of the first failure."""
    output_tokens: int = 0
    engine_seconds: float = 0.0
    """Of all engines together."""

    def add(self, counts: BlockCounts) -> None:
        self.asked += counts.asked
        self.failed += counts.failed
        self.reason = self.reason or counts.reason
        self.output_tokens += counts.output_tokens
        self.engine_seconds += counts.seconds


def ask(
    blocks: Sequence[Path],
    make_engine: MakeEngine,
    store: KnowledgeStore,
    *,
    model: str,
    run_id: str,
    compute: ComputeConfig,
    environment: Mapping[str, str],
) -> Generator[BlockCounts, None, None]:
    """Answers blocks of prompts (`plan.SCHEMA`) into the store; yields counts as they finish.

    `model` and `run_id` are written beside the answers. Engines start with the first block and
    are gone when the iterator is exhausted or closed.
    """
    arguments = {
        "make_engine": make_engine,
        "store": KnowledgeStore(store.folder.resolve()),
        "model": model,
        "run_id": run_id,
    }
    for counts in map_blocks(
        blocks,
        _Asker,
        arguments,
        compute,
        actors=compute.engines,
        gpus=compute.engine_gpus,
        environment=environment,
    ):
        yield BlockCounts(**{name: values.tolist()[0] for name, values in counts.items()})


class _Asker:
    """An actor: one engine, one block at a time."""

    def __init__(
        self, make_engine: MakeEngine, store: KnowledgeStore, model: str, run_id: str
    ) -> None:
        self._make_engine = make_engine
        self._store = store
        self._model = model
        self._run_id = run_id
        self._engine: Engine | None = None

    def __call__(self, batch: Columns) -> dict[str, list[Any]]:
        block = open_block(batch, EngineError)
        if self._engine is None:
            self._engine = self._make_engine()
        part = self._store.path_of(block["key"].to_pylist())
        started_s = time.monotonic()
        if not self._is_written(part):
            self._store.append(self._answer(self._engine, block))
        return {name: [value] for name, value in _count(part, started_s).items()}

    def _is_written(self, part: Path) -> bool:
        """By this run: what an earlier one left under the same keys are failures."""
        return part.exists() and pq.read_table(part)["run_id"][0].as_py() == self._run_id

    def _answer(self, engine: Engine, block: pa.Table) -> pa.Table:
        answers = engine.chat([json.loads(chat) for chat in block["chat"].to_pylist()])
        judged = [judge(answer) for answer in answers]
        same = {"model": self._model, "run_id": self._run_id, "time": datetime.now(UTC)}
        columns = {
            **{name: block[name] for name in ("key", "side", "id", "field", "factor")},
            "text": [answer.text for answer in answers],
            "status": [status for status, _ in judged],
            "reason": [reason for _, reason in judged],
            "prompt_tokens": [answer.prompt_tokens for answer in answers],
            "output_tokens": [answer.output_tokens for answer in answers],
            "history_end": block["history_end"],
            **{name: [value] * block.num_rows for name, value in same.items()},
        }
        return pa.table(columns, schema=SCHEMA)


def _count(part: Path, started_s: float) -> dict[str, int | float | str]:
    table = pq.read_table(part)
    failed = np.flatnonzero(table["status"].to_numpy() == "failed")
    return {
        "asked": table.num_rows,
        "failed": failed.size,
        "reason": table["reason"][int(failed[0])].as_py() if failed.size else "",
        "prompt_tokens": int(table["prompt_tokens"].to_numpy().sum()),
        "output_tokens": int(table["output_tokens"].to_numpy().sum()),
        "seconds": time.monotonic() - started_s,
    }
