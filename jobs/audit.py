"""audit: is the knowledge worth its tokens? Tables, pictures, findings, and a score for each text.

workspace/audit/<name>-<fingerprint8>/audit.md, audit.json, *.png, quality.parquet
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from math import isnan
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lorecast.artifacts import Artifact, StageSpec, build, find
from lorecast.config import ExperimentConfig, GeneratedField
from lorecast.data.dataset import Dataset
from lorecast.jobs import audit_plots
from lorecast.jobs.console import Console
from lorecast.knowledge import rows
from lorecast.knowledge.audit import PROMPTS, Audit, FactorFigures, audit
from lorecast.knowledge.findings import findings
from lorecast.knowledge.plan import Plan, liked_from
from lorecast.knowledge.quality import with_quality
from lorecast.lifecycle.mlflow_registry import open_registry
from lorecast.lifecycle.registry import Registry, RunRecord

STAGE = "audit"
ROWS = "quality.parquet"
_NOT_IN_METRICS = re.compile(r"[^\w.:/ -]")
"""Characters that MLflow refuses in a metric's name."""


def run(
    config: ExperimentConfig,
    dataset: Dataset,
    knowledge: Artifact,
    console: Console,
    registry: Registry | None = None,
) -> Path:
    """The folder with the audit of `knowledge`, logged as a run. `registry`: default MLflow.

    Raises RegistryError if the registry does not answer.
    """
    spec = StageSpec(
        stage=STAGE,
        name=config.name,
        identity={"layout": 1},
        inputs={"knowledge": knowledge.fingerprint, "dataset": dataset.fingerprint},
    )
    workspace = config.compute.folder
    if (artifact := find(workspace, spec)) is None:
        with build(workspace, spec) as draft:
            table = pq.read_table(knowledge.path / rows.KNOWLEDGE)
            table = with_quality(_with_truth(table, config, dataset))
            pq.write_table(table, draft.path / ROWS, compression="zstd")
            figures = audit(table, _prompts(config, dataset, knowledge))
            found = findings(figures)
            pictures = audit_plots.draw(figures, draft.path) if figures.factors else []
            text = "\n\n".join(_told(figures, found, pictures))
            (draft.path / "audit.md").write_text(text + "\n", encoding="utf-8")
            (draft.path / "audit.json").write_text(_as_json(figures, found), encoding="utf-8")
            run = _record(spec, figures, found)
            draft.facts.update(
                findings=list(found),
                texts=table.num_rows,
                run_id=(registry or open_registry(config)).log(run, draft.path),
            )
        artifact = Artifact.open(draft.path)
    console.heading(f"lorecast audit · {config.name}")
    for finding in artifact.facts["findings"]:
        console.note(finding)
    console.result(f"audit: {artifact.path / 'audit.md'}", audit=str(artifact.path))
    return artifact.path


def _with_truth(table: pa.Table, config: ExperimentConfig, dataset: Dataset) -> pa.Table:
    """On the embedded world, which answers are true; elsewhere nobody knows."""
    if config.dataset.source != "world":
        return table
    from lorecast.world import generate
    from lorecast.world.facts_audit import with_truth

    world = generate(config.dataset.world_seed)
    return with_truth(table, world, dataset, config.knowledge.prompt_history, liked_from(config))


def _prompts(config: ExperimentConfig, dataset: Dataset, knowledge: Artifact) -> pa.Table | None:
    """The prompts about single entities, made again as `generate` made them."""
    fields = [
        field
        for field in config.knowledge.fields
        if isinstance(field, GeneratedField) and field.extraction == "individual"
    ]
    if not fields:
        return None
    asked = config.knowledge.model_copy(update={"fields": tuple(fields)})
    alone = config.model_copy(update={"knowledge": asked})
    plan = Plan.of(alone, dataset, knowledge.manifest["identity"]["llm"]["model"])
    blocks = [
        pa.table(
            [block["key"], pa.array([_prompt_text(chat) for chat in block["chat"].to_pylist()])],
            schema=PROMPTS,
        )
        for block in plan.blocks()
    ]
    return pa.concat_tables(blocks) if blocks else None


def _prompt_text(chat: str) -> str:
    return "\n".join(message["content"] for message in json.loads(chat))


def _told(figures: Audit, found: Sequence[str], pictures: Sequence[str]) -> Iterator[str]:
    yield "# What the knowledge is worth"
    yield "## Findings"
    yield "\n".join(f"- {finding}" for finding in found) or "Nothing stands out."
    yield "## Answers by factor"
    yield _table(figures.factors, _ANSWERS)
    for picture in ("lengths.png", "duplicates.png"):
        if picture in pictures:
            yield f"![{picture.removesuffix('.png')}]({picture})"
    if any(each.accuracy for each in figures.factors):
        yield "## Answers that are true"
        yield _table([each for each in figures.factors if each.accuracy], _TRUTH)
        yield "![accuracy](accuracy.png)"
    if any(each.names is not None for each in figures.factors):
        yield "## Names"
        yield (
            "Runs of capitalised words inside sentences. Those that the prompt does not have, the "
            "model knew or invented."
        )
        yield _table([each for each in figures.factors if each.names is not None], _NAMES)
    if "redundancy.png" in pictures:
        yield "## Redundancy"
        yield (
            "Left: mean share of words that two factors' answers about the same entity have in "
            "common. Right: the share of wrong guesses about the column's answer that knowing the "
            "row's avoids (grey: answers that hardly repeat, or never differ)."
        )
        yield "![redundancy](redundancy.png)"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


_ANSWERS = {
    "texts": lambda f: f"{f.texts:,}",
    "ok": lambda f: _share(f.status.get("ok", 0.0)),
    "else": lambda f: ", ".join(f"{s} {n:.1%}" for s, n in f.status.items() if s != "ok"),
    "words p5 / p50 / p95": lambda f: " / ".join(f"{words:.0f}" for words in f.words),
    "distinct": lambda f: f"{f.distinct:,}",
    "copies": lambda f: _share(f.copied),
    "near copies": lambda f: _share(f.near_copied),
    "echo": lambda f: f"{f.echo:.2f}",
    "most frequent answer": lambda f: f.top_answer.replace("|", "\\|").replace("\n", " ")[:80],
    "its share": lambda f: _share(f.top_share),
}
_TRUTH = {
    part: lambda f, part=part: _share(f.accuracy.get(part)) for part in ("all", "popular", "rare")
}
_NAMES = {
    "names an answer": lambda f: f"{f.names:.2f}",
    "in the prompt": lambda f: _share(f.names_from_prompt),
}


def _table(factors: Sequence[FactorFigures], columns: dict[str, Any]) -> str:
    lines = [
        f"| side | field | factor | {' | '.join(columns)} |",
        "|" + "---|" * (len(columns) + 3),
    ]
    for each in factors:
        cells = [each.side, each.field, each.factor, *(cell(each) for cell in columns.values())]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _as_json(figures: Audit, found: Sequence[str]) -> str:
    redundancy = [
        asdict(each) | {name: _cells(getattr(each, name)) for name in ("overlap", "told")}
        for each in figures.redundancy
    ]
    return json.dumps(
        {
            "findings": list(found),
            "factors": [asdict(each) for each in figures.factors],
            "redundancy": redundancy,
        },
        indent=1,
    )


def _cells(matrix: Any) -> list[list[float | None]]:
    return [[None if isnan(value) else value for value in row] for row in matrix.tolist()]


def _record(spec: StageSpec, figures: Audit, found: Sequence[str]) -> RunRecord:
    metrics = {"findings": float(len(found))}
    for each in figures.factors:
        place = _NOT_IN_METRICS.sub("_", f"{each.side}.{each.field}.{each.factor}")
        metrics[f"{place}.ok"] = each.status.get("ok", 0.0)
        metrics[f"{place}.words_p50"] = each.words[1]
        metrics[f"{place}.copied"] = each.copied
        metrics[f"{place}.near_copied"] = each.near_copied
        metrics[f"{place}.top_share"] = each.top_share
        metrics[f"{place}.echo"] = each.echo
        for part, share in each.accuracy.items():
            metrics[f"{place}.accuracy_{part}"] = share
    return RunRecord(
        name=f"audit-{spec.name}",
        params={},
        metrics=metrics,
        curves=[],
        tags={f"fingerprint.{role}": value for role, value in spec.inputs.items()},
        plots=[],
    )
