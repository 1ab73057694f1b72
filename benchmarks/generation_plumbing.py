"""Point 2f: the job around the engines, up to a million prompts, with an engine in memory.

Each size runs in a process of its own: planning, blocks, actors, store, join. What is counted is
the whole stage, start of Ray apart; memory is the largest resident set of the driver and of the
engine's actor.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.harness import Outcome
from lorecast.artifacts import StageSpec, build, write_json
from lorecast.config import (
    ComputeConfig,
    ExperimentConfig,
    GeneratedField,
    KnowledgeConfig,
    LLMConfig,
)
from lorecast.data.dataset import Dataset
from lorecast.data.layout import (
    ITEMS,
    SPLITS,
    USERS,
    VOCABULARIES,
    item_schema,
    samples_folder,
    user_schema,
)
from lorecast.data.samples import empty_past
from lorecast.knowledge.engine import Answer, Chat

BAR = (
    "memory of driver and workers within 20 % from 10,000 to 1,000,000 prompts; ≥ 5,000 rows/s "
    "at 1,000,000"
)
_SIZES = (10_000, 100_000, 1_000_000)
_BAR_ROWS_PER_S, _BAR_GROWTH = 5_000, 1.2
_FACTORS = 7
_ROOT = Path(__file__).parents[1]


class InstantEngine:
    """Answers at once; notes the memory of its process."""

    def __init__(self, note: Path) -> None:
        self._note = note

    def chat(
        self,
        batch: list[Chat],
        schemas: list[str | None] | None = None,  # noqa: ARG002
    ) -> list[Answer]:
        self._note.write_text(str(_peak_mib()))
        return [
            Answer(
                text=f"It is about {chat[-1]['content'][-40:]}", prompt_tokens=40, output_tokens=12
            )
            for chat in batch
        ]


def measure() -> Outcome:
    runs = {size: _in_process(size) for size in _SIZES}
    small, large = runs[_SIZES[0]], runs[_SIZES[-1]]
    growth = {who: large[who] / small[who] for who in ("driver_mib", "worker_mib")}
    rate = large["rows_per_s"]
    shares = large["seconds"]
    slowest = max(("plan", "ask", "join"), key=lambda step: shares[step])
    return Outcome(
        figure=(
            f"{rate:,.0f} rows/s at {_SIZES[-1]:,} prompts; memory × {growth['driver_mib']:.2f} "
            f"(driver), × {growth['worker_mib']:.2f} (worker) from {_SIZES[0]:,}"
        ),
        passed=rate >= _BAR_ROWS_PER_S and max(growth.values()) <= _BAR_GROWTH,
        details={
            "runs": {str(size): run for size, run in runs.items()},
            "bounded_by": f"`{slowest}`, one process: {shares[slowest]:.0f} of "
            f"{shares['whole']:.0f} s",
        },
    )


def _in_process(size: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="lorecast-plumbing-") as folder:
        # The dataset is made elsewhere, so that its making is not counted.
        dataset = _dataset(Path(folder), size // _FACTORS)
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.generation_plumbing", str(dataset.path), folder],
            cwd=_ROOT,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _run(dataset: Dataset, folder: Path) -> dict[str, Any]:
    """One size, in this process."""
    from ray.cloudpickle import register_pickle_by_value

    from lorecast.jobs import cluster, generate
    from lorecast.jobs.console import Console

    register_pickle_by_value(sys.modules[InstantEngine.__module__])
    compute = ComputeConfig(workspace=str(folder / "workspace"), threads=1)
    config = ExperimentConfig(
        knowledge=KnowledgeConfig(
            fields=(GeneratedField(name="facts", side="item", factor_set="world"),),
            llm=LLMConfig(model="memory/instant"),
        ),
        compute=compute,
    )
    cluster.connect(compute)
    note = folder / "worker"
    started_s = time.monotonic()
    artifact = generate.run(
        config, dataset, Console(quiet=True), make_engine=lambda: InstantEngine(note)
    )
    seconds = time.monotonic() - started_s
    facts = artifact.facts
    rows = pq.read_metadata(artifact.path / "knowledge.parquet").num_rows
    return {
        "prompts": rows,
        "rows_per_s": rows / seconds,
        "driver_mib": _peak_mib(),
        "worker_mib": float(note.read_text()),
        "seconds": {
            "whole": seconds,
            "plan": facts["plan_seconds"],
            "ask": facts["seconds"],
            "join": seconds - facts["plan_seconds"] - facts["seconds"],
        },
    }


def _dataset(folder: Path, num_items: int) -> Dataset:
    """Items with titles, and no user."""
    spec = StageSpec(stage="prepare", name="plumbing", identity={"items": num_items})
    with build(folder / "workspace", spec) as draft:
        for split in SPLITS:
            samples_folder(draft.path, split).mkdir(parents=True)
        number = pa.array(np.arange(num_items)).cast(pa.string())
        titles = pa.compute.binary_join_element_wise("The film number", number, " ")
        years = pa.array(np.arange(num_items) % 80 + 1940).cast(pa.string())
        items = pa.table([number, titles, years], schema=item_schema(("year",), ()))
        pq.write_table(items, draft.path / ITEMS)
        users = empty_past(0, 10)
        for place, name in enumerate(("id",)):
            users = users.add_column(place, name, pa.array([], pa.string()))
        pq.write_table(users.cast(user_schema((), (), 10)), draft.path / USERS)
        write_json(draft.path / VOCABULARIES, {"item": {}, "user": {}, "rating": [0, 1]})
        draft.facts.update(history_length=10, text_columns={"item": ["year"], "user": []})
    return Dataset.open(spec.folder(folder / "workspace"))


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    print(json.dumps(_run(Dataset.open(arguments.dataset), arguments.folder)))
