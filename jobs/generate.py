"""generate: what is known about users and items, asked of a language model or imported.

    plan → wanted.parquet, and prompts of the missing keys in blocks
         → engines answer blocks into the store (`lorecast.jobs.asking`)
         → the store's answers and imported texts joined to knowledge.parquet

Everything streams through files, so memory does not grow with the number of prompts. What is in the
artifact beside knowledge.parquet: the groups of collective fields.
"""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lorecast.artifacts import Artifact, Draft, StageSpec, build, find, fingerprint_files
from lorecast.config import ExperimentConfig, GeneratedField, ImportedField, VectorsField
from lorecast.data.dataset import Dataset
from lorecast.jobs import engines
from lorecast.jobs.asking import MakeEngine
from lorecast.jobs.console import Console
from lorecast.jobs.spending import PROMPTS_FOLDER, WANTED_FILE, Account, Planned
from lorecast.knowledge import rows, store
from lorecast.knowledge.answers import RETRIED, check_language
from lorecast.knowledge.groups import (
    ALL_FACTORS,
    FieldGroups,
    Groups,
    Seeds,
    head_of,
    make_groups,
    saved_files,
)
from lorecast.knowledge.imports import import_digest, import_texts
from lorecast.knowledge.joining import knowledge_rows
from lorecast.knowledge.language_model import LanguageModel
from lorecast.knowledge.leakage import check_prompts
from lorecast.knowledge.plan import SIDES, Plan, Question, liked_from, questions
from lorecast.knowledge.representation import Embed
from lorecast.knowledge.store import KnowledgeStore, StoreIndex

_NUM_SAMPLES = 3
_ADVICE = {"truncated": "; a larger knowledge.llm.max_tokens lets the model finish"}
_JOIN_ROWS = 2048
_DECISIVE = ["side", "row", "field", "chunk", "text", "status", "history_end", "weight"]
"""What vectors are made from."""


def run(
    config: ExperimentConfig,
    dataset: Dataset,
    console: Console,
    make_engine: MakeEngine | None = None,
    embed: Embed | None = None,
    *,
    retry_failed: bool = False,
) -> Artifact:
    """The knowledge of an experiment. `make_engine` replaces the configured engine, `embed` the
    text encoder behind collective extraction; `retry_failed` asks again for what failed in a
    finished artifact.

    Raises EngineError if the language model is missing, cannot start, or fails on more prompts
    than knowledge.error_budget allows; what it answered before is stored. Raises InputError for
    unusable factor sets or texts to import, LeakageError for prompts that show what is to be
    predicted.
    """
    asked = questions(config.knowledge.fields)
    if config.knowledge.llm.language is not None:
        check_language(config.knowledge.llm.language)
    model = engines.find_model(config) if asked else None
    spec = stage_spec(config, dataset, asked, model)
    workspace = config.compute.folder
    artifact = find(workspace, spec)
    if artifact is not None and not (retry_failed and artifact.facts["failed"]):
        return artifact
    knowledge_store = KnowledgeStore(workspace / store.FOLDER)
    with build(workspace, spec) as draft, knowledge_store.in_use(), _small_memory():
        imported = _import(config, dataset, draft)
        joined: Iterator[pa.Table] = iter(())
        draft.facts.update(generated=0, reused=0, samples=[], seconds=0.0, rows_per_second=0.0)
        if model is not None:
            if any(question.side == "user" for question in asked):
                check_prompts(dataset)
            ask = Account(config, model, make_engine, knowledge_store, draft, console)
            seeds = _seeds(config, dataset, asked, ask)
            groups = collective_groups(config, dataset, asked, seeds, embed)
            for name, of_field in groups.items():
                for factor, of_factor in of_field.items():
                    of_factor.save(draft.path, name, factor)
            plan = Plan.of(config, dataset, model.digest, groups)
            planned = ask(plan)
            joined = _join(plan, planned, knowledge_store, draft)
        _write(config, chain(joined, imported), asked, draft)
        shutil.rmtree(draft.path / PROMPTS_FOLDER, ignore_errors=True)
        (draft.path / WANTED_FILE).unlink(missing_ok=True)
        _warn(draft.facts, console)
    return Artifact.open(draft.path)


@contextmanager
def _small_memory() -> Iterator[None]:
    """Arrow's own allocators keep what was freed, and over many small parts that adds up."""
    before = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(before)


def collective_groups(
    config: ExperimentConfig,
    dataset: Dataset,
    asked: Sequence[Question],
    seeds: Mapping[str, Seeds],
    embed: Embed | None = None,
) -> dict[str, FieldGroups]:
    """The groups of every collective field, by its name; see `groups.make_groups` for `seeds`."""
    from lorecast.jobs.encode import embed_texts

    return {
        question.field: make_groups(
            question.config,
            question.factors,
            dataset,
            liked_from(config),
            embed or partial(embed_texts, config),
            seeds,
        )
        for question in asked
        if question.is_collective
    }


def stage_spec(
    config: ExperimentConfig,
    dataset: Dataset,
    asked: Sequence[Question],
    model: LanguageModel | None,
) -> StageSpec:
    """Contents decide, not paths: files, prompts, groups and model stand with their digests."""
    digests: dict[str, dict[str, Any]] = {}
    for question in asked:
        factor_set = question.factor_set
        digests[question.field] = {
            "factor_set": factor_set.role_digest(question.roles, question.factors)
        }
        collective = question.config.collective
        if question.is_collective and collective.groups is not None:
            files = saved_files(Path(collective.groups), question.field)
            digests[question.field]["groups"] = fingerprint_files(files)
        if question.is_collective and collective.represent == "text":
            digests[question.field]["encoding"] = config.encoding.identity()
    digests |= {
        field.name: {"file": import_digest(field, _root(config))}
        for field in config.knowledge.fields
        if isinstance(field, ImportedField)
    }
    digests |= {
        field.name: {"vectors": Artifact.open(Path(field.folder).expanduser()).fingerprint}
        for field in config.knowledge.fields
        if isinstance(field, VectorsField)
    }
    identity: dict[str, Any] = {
        # Certainty stands in the model's identity, if it is asked for.
        "columns": [name for name in rows.SCHEMA.names if name != rows.CERTAINTY],
        "fields": [field.identity() | digests[field.name] for field in config.knowledge.fields],
    }
    if model is not None:
        identity["llm"] = config.knowledge.llm.identity() | {"model": model.digest}
        identity["prompt_history"] = config.knowledge.prompt_history
    return StageSpec(
        stage=rows.STAGE,
        name=config.name,
        identity=identity,
        inputs={"dataset": dataset.fingerprint},
    )


def _root(config: ExperimentConfig) -> Path:
    return Path(config.dataset.path or ".").expanduser()


def _import(config: ExperimentConfig, dataset: Dataset, draft: Draft) -> list[pa.Table]:
    """The imported fields' rows; facts about them."""
    tables, facts = [], []
    for field in config.knowledge.fields:
        if not isinstance(field, ImportedField):
            continue
        entities = dataset.items() if field.side == "item" else dataset.users()
        texts = import_texts(field, _root(config), entities)
        tables.append(texts.rows)
        facts.append(
            {
                "field": field.name,
                "texts": texts.num_texts,
                "empty": texts.num_empty,
                "unknown_ids": texts.num_unknown,
                "chunks": texts.rows.num_rows - texts.num_empty,
            }
        )
    draft.facts.update(imports=facts, imported=sum(fact["texts"] for fact in facts))
    return tables


def _seeds(
    config: ExperimentConfig, dataset: Dataset, asked: Sequence[Question], ask: Account
) -> dict[str, Seeds]:
    """Individual answers about items, for the fields whose groups are made from knowledge."""
    needed = {factor for q in asked if _is_by_knowledge(q) for factor in q.factors}
    sources = [
        dataclasses.replace(q, factors=tuple(f for f in q.factors if f in needed))
        for q in asked
        if q.side == "item" and q.config.answer == "factor" and q.side in q.roles
    ]
    sources = [question for question in sources if question.factors]
    if not needed or not sources:
        return {}
    heads = {
        q.field: {ALL_FACTORS: Groups.none(head_of(q.config, dataset, liked_from(config)))}
        for q in sources
        if q.is_collective
    }
    plan = Plan.of(config, dataset, ask.model.digest, heads)
    plan = dataclasses.replace(plan, questions=tuple(sources))
    ask(plan)
    index = ask.store.index()
    found: dict[str, list[pa.Table]] = {}
    for block in plan.blocks():
        answers = index.fetch(block["key"].combine_chunks())
        told = pa.table({"row": block["row"], "factor": block["factor"], "text": answers["text"]})
        good = told.filter(pc.equal(answers["status"], "ok"))
        for factor in pc.unique(good["factor"]).to_pylist():
            found.setdefault(factor, []).append(good.filter(pc.equal(good["factor"], factor)))
    return {
        factor: Seeds(
            item_S=pa.concat_tables(tables)["row"].to_numpy() - 1,
            text_S=pa.concat_tables(tables)["text"].combine_chunks(),
        )
        for factor, tables in found.items()
    }


def _is_by_knowledge(question: Question) -> bool:
    return question.is_collective and question.config.collective.represent == "knowledge"


def _join(
    plan: Plan, planned: Planned, knowledge_store: KnowledgeStore, draft: Draft
) -> Iterator[pa.Table]:
    """The generated fields' rows."""
    index = knowledge_store.index()
    draft.facts["samples"] = _samples(index, planned.shown)
    # Buffering ahead would hold the whole file.
    with pq.ParquetFile(draft.path / WANTED_FILE, pre_buffer=False) as wanted:
        batches = (pa.Table.from_batches([b]) for b in wanted.iter_batches(_JOIN_ROWS))
        yield from knowledge_rows(batches, index, plan.questions, plan.groups, plan.dataset)


def _write(
    config: ExperimentConfig, tables: Iterator[pa.Table], asked: Sequence[Question], draft: Draft
) -> None:
    """knowledge.parquet, and facts about it."""
    counts: dict[str, int] = {}
    chunks: dict[str, int] = {field.name: 0 for field in config.knowledge.fields}
    tokens = {"prompt_tokens": 0, "output_tokens": 0}
    digest = hashlib.blake2b(digest_size=16)
    decisive = [*_DECISIVE, *([rows.CERTAINTY] if config.knowledge.llm.certainty else [])]
    with pq.ParquetWriter(draft.path / rows.KNOWLEDGE, rows.SCHEMA, compression="zstd") as writer:
        for table in tables:
            writer.write_table(table)
            for count in pc.value_counts(table["status"]).to_pylist():
                counts[count["values"]] = counts.get(count["values"], 0) + count["counts"]
            for each in table.group_by("field").aggregate([("chunk", "max")]).to_pylist():
                chunks[each["field"]] = max(chunks[each["field"]], each["chunk_max"] + 1)
            for name in tokens:
                tokens[name] += pc.sum(table[name]).as_py() or 0
            for batch in table.select(decisive).to_batches():
                digest.update(batch.serialize())
    factors = {question.field: list(question.factors) for question in asked}
    for field in config.knowledge.fields:
        if isinstance(field, VectorsField):
            factors[field.name] = ["vector"]
        elif not isinstance(field, GeneratedField) or field.answer == "text":
            factors[field.name] = [str(number) for number in range(1, chunks[field.name] + 1)]
    draft.facts.update(
        fields=[
            {"name": field.name, "side": field.side, "factors": factors[field.name]}
            for field in config.knowledge.fields
        ],
        counts=counts,
        failed=sum(counts.get(status, 0) for status in RETRIED),
        texts_digest=digest.hexdigest(),
        **tokens,
    )


def _samples(index: StoreIndex, shown: Mapping[str, pa.Table]) -> list[dict[str, str]]:
    """A few prompts with their answers: sides in turn, each time another factor."""
    by_side = [
        [_sample(index, shown[side], chunk) for chunk in range(_NUM_SAMPLES)]
        for side in SIDES
        if side in shown
    ]
    in_turn = chain.from_iterable(zip_longest(*by_side))
    return [sample for sample in in_turn if sample is not None][:_NUM_SAMPLES]


def _sample(index: StoreIndex, prompts: pa.Table, chunk: int) -> dict[str, str] | None:
    """The first of these prompts for this chunk that has an `ok` answer."""
    prompts = prompts.filter(pc.equal(prompts["chunk"], chunk))
    answers = index.fetch(prompts["key"].combine_chunks())
    good = np.flatnonzero(pc.equal(answers["status"], "ok"))
    if not good.size:
        return None
    [prompt], [answer] = (t.slice(int(good[0]), 1).to_pylist() for t in (prompts, answers))
    words = {"prompt": json.loads(prompt["chat"])[-1]["content"], "answer": answer["text"]}
    return words | {name: prompt[name] for name in ("side", "factor", "id")}


def _warn(facts: Mapping[str, Any], console: Console) -> None:
    """Says what will not become vectors."""
    for status, count in facts["counts"].items():
        if status != "ok":
            console.note(f"texts left out as {status}: {count:,}{_ADVICE.get(status, '')}")
    for texts in facts["imports"]:
        if texts["unknown_ids"]:
            console.note(
                f"texts of field {texts['field']} left out, since their ids are not in the "
                f"dataset: {texts['unknown_ids']:,}"
            )
