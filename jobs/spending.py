"""Plans put to the engine, and the account of what that cost.

A plan is streamed to disk: all wanted keys, and in blocks the prompts of those that the store
lacks. The engine answers the blocks into the store; too many failures end the stage.
"""

import dataclasses
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lorecast.artifacts import Draft
from lorecast.config import ExperimentConfig
from lorecast.errors import EngineError
from lorecast.jobs import engines
from lorecast.jobs.asking import MakeEngine, Origin, Tally
from lorecast.jobs.blocks import write_blocks
from lorecast.jobs.console import Console
from lorecast.knowledge.joining import WANTED
from lorecast.knowledge.language_model import LanguageModel
from lorecast.knowledge.plan import SCHEMA as PROMPTS
from lorecast.knowledge.plan import Plan
from lorecast.knowledge.store import KnowledgeStore

WANTED_FILE: Final = "wanted.parquet"
PROMPTS_FOLDER: Final = "prompts"
_SCHEMA = pa.schema([column for column in PROMPTS if column.name in WANTED])
_BLOCK_ENTITIES = 512


@dataclass
class Planned:
    """What planning came to."""

    blocks: list[Path]
    """Prompts of the missing keys."""
    wanted: dict[str, int]
    """Prompts by field."""
    missing: dict[str, int]
    """Of these, to be asked."""
    shown: dict[str, pa.Table] = dataclasses.field(default_factory=dict)
    """The first prompts of each side, to pick samples from."""


@dataclass
class Account:
    """Puts plans to the engine, within the error budget; adds up facts of counts and speed."""

    config: ExperimentConfig
    model: LanguageModel
    make_engine: MakeEngine | None
    store: KnowledgeStore
    draft: Draft
    console: Console
    asked: dict[str, int] = dataclasses.field(default_factory=dict)
    """Prompts by field, of all plans so far."""
    done: Tally = dataclasses.field(default_factory=Tally)
    seconds: float = 0.0
    """With engines, their start included."""
    plan_seconds: float = 0.0

    def __call__(self, plan: Plan) -> Planned:
        """Asks for what the store lacks; the wanted keys lie in the draft's wanted.parquet."""
        started_s = time.monotonic()
        planned = self._plan(plan)
        self.plan_seconds += time.monotonic() - started_s
        for name, missing in planned.missing.items():
            self.asked[name] = self.asked.get(name, 0) + missing
        if planned.blocks:
            started_s = time.monotonic()
            self._ask(planned)
            self.seconds += time.monotonic() - started_s
        self._describe(planned)
        return planned

    def _plan(self, plan: Plan) -> Planned:
        index = self.store.index()
        counts = dict.fromkeys((question.field for question in plan.questions), 0)
        planned = Planned(blocks=[], wanted=dict(counts), missing=dict(counts))

        def missing(writer: pq.ParquetWriter) -> Iterator[pa.Table]:
            with self.console.progress("plan", plan.num_prompts) as task:
                for block in plan.blocks(_BLOCK_ENTITIES):
                    writer.write_table(block.select(WANTED))
                    planned.shown.setdefault(block["side"][0].as_py(), block)
                    lacking = block.filter(pa.array(~index.is_answered(block["key"])))
                    for total, table in ((planned.wanted, block), (planned.missing, lacking)):
                        for number in pc.value_counts(table["field"]).to_pylist():
                            total[number["values"]] += number["counts"]
                    task.advance(block.num_rows)
                    yield lacking

        shutil.rmtree(self.draft.path / PROMPTS_FOLDER, ignore_errors=True)
        # A folder of its own: an engine of a run that just ended may still mark that run's blocks.
        folder = self.draft.path / PROMPTS_FOLDER / uuid.uuid4().hex
        with pq.ParquetWriter(self.draft.path / WANTED_FILE, _SCHEMA) as writer:
            planned.blocks = write_blocks(missing(writer), folder, self.config.compute.engine_batch)
        for name, wanted in planned.wanted.items():
            lacking = planned.missing[name]
            if 0 < lacking < wanted:
                self.console.note(
                    f"{name}: {wanted - lacking:,} of {wanted:,} stored, {lacking:,} to ask"
                )
        return planned

    def _ask(self, planned: Planned) -> None:
        knowledge, compute = self.config.knowledge, self.config.compute
        total = sum(planned.missing.values())
        failed_before = self.done.failed
        origin = Origin(
            model=self.model.source, run_id=uuid.uuid4().hex, language=knowledge.llm.language
        )
        answered = engines.answers(
            self.config, planned.blocks, self.model, self.store, origin, self.make_engine
        )
        with closing(answered), self.console.progress("generate", total) as task:
            for counts in answered:
                self.done.add(counts)
                failed = self.done.failed - failed_before
                engine_s = max(self.done.engine_seconds / compute.engines, 1e-3)
                task.advance(
                    counts.asked,
                    failed=failed,
                    **{"tokens/s": round(self.done.output_tokens / engine_s)},
                )
                if failed > knowledge.error_budget * total:
                    raise EngineError(
                        f"{failed:,} of {self.done.asked:,} prompts failed, and "
                        f"knowledge.error_budget allows {knowledge.error_budget:.1%} of "
                        f"{total:,}; the first: {self.done.reason}. All other answers are stored: "
                        "mend the cause and run again"
                    )

    def _describe(self, planned: Planned) -> None:
        facts = {
            "fields_asked": {
                name: {"wanted": wanted, "asked": self.asked[name]}
                for name, wanted in planned.wanted.items()
            },
            "generated": self.done.asked,
            "reused": sum(planned.wanted.values()) - self.done.asked,
            "plan_seconds": round(self.plan_seconds, 3),
        }
        if self.done.asked:
            engine_s = max(self.done.engine_seconds / self.config.compute.engines, 1e-3)
            facts |= {
                "seconds": round(self.seconds, 3),
                "rows_per_second": round(self.done.asked / self.seconds, 1),
                "engine_seconds": round(engine_s, 3),
                "engine_rows_per_second": round(self.done.asked / engine_s, 1),
                "engine_tokens_per_second": round(self.done.output_tokens / engine_s, 1),
                "paid_prompt_tokens": self.done.prompt_tokens,
                "paid_output_tokens": self.done.output_tokens,
            }
        self.draft.facts.update(facts)
