"""Blocks of prompts through engine actors into the knowledge store.

An engine that stalls over a block is ended, and the job with it.

An actor writes a block's answers to the store under a name made of their keys, and returns only
counts. A block that Ray hands out a second time is found written and costs nothing, so a killed
run pays at most one block an engine twice.
"""

import json
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lorecast.config import ComputeConfig
from lorecast.errors import EngineError
from lorecast.jobs.blocks import Columns, map_blocks, open_block
from lorecast.jobs.watchdog import LastLine, ended_reason, watch
from lorecast.knowledge.answers import RETRIED, judge
from lorecast.knowledge.engine import Answer, Engine
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
    prompt_tokens: int = 0
    output_tokens: int = 0
    engine_seconds: float = 0.0
    """Of all engines together."""

    def add(self, counts: BlockCounts) -> None:
        self.asked += counts.asked
        self.failed += counts.failed
        self.reason = self.reason or counts.reason
        self.prompt_tokens += counts.prompt_tokens
        self.output_tokens += counts.output_tokens
        self.engine_seconds += counts.seconds


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What is written beside every answer, and what it is judged by."""

    model: str
    run_id: str
    language: str | None
    """That answers must have; none: any."""


def ask(
    blocks: Sequence[Path],
    make_engine: MakeEngine,
    store: KnowledgeStore,
    origin: Origin,
    compute: ComputeConfig,
    environment: Mapping[str, str],
    gpus: float,
    stall_s: float | None,
) -> Generator[BlockCounts, None, None]:
    """Answers blocks of prompts (`plan.SCHEMA`) into the store; yields counts as they finish.

    `gpus`: of each engine; `stall_s`: a block may take so long, or any time. Engines start with
    the first block and are gone when the iterator is exhausted or closed. Raises EngineError if an
    engine breaks, dies over and over, or stalls.
    """
    arguments = {
        "make_engine": make_engine,
        "store": KnowledgeStore(store.folder.resolve()),
        "origin": origin,
        "stall_s": stall_s,
    }
    for counts in map_blocks(
        blocks,
        _Asker,
        arguments,
        compute,
        actors=compute.engines,
        gpus=gpus,
        environment=environment,
    ):
        yield BlockCounts(**{name: values.tolist()[0] for name, values in counts.items()})


def chat(engine: Engine, prompts: pa.Table) -> list[Answer]:
    """The engine's answers to prompts (`plan.SCHEMA`), in their order."""
    chats = [json.loads(chat) for chat in prompts["chat"].to_pylist()]
    schemas = prompts["schema"]
    if schemas.null_count == len(schemas):
        return engine.chat(chats)
    return engine.chat(chats, schemas.to_pylist())


def answers_table(prompts: pa.Table, answers: Sequence[Answer], origin: Origin) -> pa.Table:
    """Judged answers to prompts (`plan.SCHEMA`) as rows of the store."""
    schemas = prompts["schema"].to_pylist()
    judged = [
        judge(answer, schema=schema, language=origin.language)
        for answer, schema in zip(answers, schemas, strict=True)
    ]
    same = {"model": origin.model, "run_id": origin.run_id, "time": datetime.now(UTC)}
    columns = {
        **{name: prompts[name] for name in ("key", "side", "id", "field", "factor")},
        "text": [answer.text for answer in answers],
        "status": [status for status, _ in judged],
        "reason": [reason for _, reason in judged],
        "prompt_tokens": [answer.prompt_tokens for answer in answers],
        "output_tokens": [answer.output_tokens for answer in answers],
        "history_end": prompts["history_end"],
        **{name: [value] * prompts.num_rows for name, value in same.items()},
        "certainty": [answer.certainty for answer in answers],
    }
    return pa.table(columns, schema=SCHEMA)


def count(rows: pa.Table, seconds: float) -> dict[str, int | float | str]:
    """What `BlockCounts` says of some rows of the store."""
    failed = np.flatnonzero(pc.is_in(rows["status"], value_set=pa.array(sorted(RETRIED))))
    return {
        "asked": rows.num_rows,
        "failed": failed.size,
        "reason": rows["reason"][int(failed[0])].as_py() if failed.size else "",
        "prompt_tokens": int(rows["prompt_tokens"].to_numpy().sum()),
        "output_tokens": int(rows["output_tokens"].to_numpy().sum()),
        "seconds": seconds,
    }


class _Asker:
    """An actor: one engine, one block at a time."""

    def __init__(
        self, make_engine: MakeEngine, store: KnowledgeStore, origin: Origin, stall_s: float | None
    ) -> None:
        self._make_engine = make_engine
        self._store = store
        self._origin = origin
        self._stall_s = stall_s
        self._engine: Engine | None = None

    def __call__(self, batch: Columns) -> dict[str, list[Any]]:
        stalled = Path(batch["block"][0]).with_suffix(".stalled")
        if stalled.exists():
            raise EngineError(ended_reason(stalled))
        started_s = time.monotonic()
        keys = pq.read_table(batch["block"][0], columns=["key"])["key"]
        part = self._store.path_of(keys.to_pylist())
        if not self._is_written(part):
            block = open_block(batch, EngineError)
            with watch(stalled, self._stall_s, self._last_line):
                self._engine = self._engine or self._make_engine()
                started_s = time.monotonic()
                rows = answers_table(block, chat(self._engine, block), self._origin)
            self._store.append(rows)
            self._metrics.count(rows)
        counts = count(pq.read_table(part), time.monotonic() - started_s)
        return {name: [value] for name, value in counts.items()}

    def _is_written(self, part: Path) -> bool:
        """By this run: what an earlier one left under the same keys are failures."""
        return part.exists() and pq.read_table(part)["run_id"][0].as_py() == self._origin.run_id

    @cached_property
    def _last_line(self) -> LastLine:
        return LastLine.listen()

    @cached_property
    def _metrics(self) -> "_Metrics":
        return _Metrics()


class _Metrics:
    """Prometheus counters, which Ray exports on every node."""

    def __init__(self) -> None:
        from ray.util.metrics import Counter

        self._prompts = Counter(
            "lorecast_prompts_total", "Prompts answered, by status", tag_keys=("status",)
        )
        self._tokens = Counter(
            "lorecast_tokens_total", "Tokens read and written", tag_keys=("kind",)
        )

    def count(self, rows: pa.Table) -> None:
        for status in pc.value_counts(rows["status"]).to_pylist():
            self._prompts.inc(status["counts"], {"status": status["values"]})
        for kind in ("prompt", "output"):
            if tokens := int(rows[f"{kind}_tokens"].to_numpy().sum()):
                self._tokens.inc(tokens, {"kind": kind})
