"""generate: what is known about users and items, asked of a language model or imported.

Asks for wanted minus stored keys (`lorecast.jobs.asking`), then joins the store's answers and the
imported texts to one table, knowledge.parquet (see `lorecast.knowledge.rows`).
"""

import json
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lorecast.artifacts import Artifact, Draft, StageSpec, build, find
from lorecast.config import ExperimentConfig, ImportedField
from lorecast.data.dataset import Dataset
from lorecast.errors import EngineError
from lorecast.jobs.asking import MakeEngine, Tally, ask
from lorecast.jobs.blocks import thread_environment, write_blocks
from lorecast.jobs.console import Console
from lorecast.jobs.vllm_engine import VLLMEngine, VLLMSettings, check_installed, environment
from lorecast.knowledge import rows, store
from lorecast.knowledge.imports import import_digest, import_texts
from lorecast.knowledge.language_model import LanguageModel, find_language_model
from lorecast.knowledge.plan import Plan, Question, questions
from lorecast.knowledge.store import KnowledgeStore

_NUM_SAMPLES = 3
_ADVICE = {"truncated": "; a larger knowledge.llm.max_tokens lets the model finish"}


def run(
    config: ExperimentConfig,
    dataset: Dataset,
    console: Console,
    make_engine: MakeEngine | None = None,
) -> Artifact:
    """The knowledge of an experiment. `make_engine` replaces vLLM.

    Raises EngineError if the language model is missing, cannot start, or fails on more prompts
    than knowledge.error_budget allows; what it answered before is stored. Raises InputError for
    unusable factor sets or texts to import.
    """
    asked = questions(config.knowledge.fields)
    model = _find_model(config) if asked else None
    spec = _spec(config, dataset, asked, model)
    workspace = Path(config.compute.workspace)
    if (artifact := find(workspace, spec)) is not None:
        return artifact
    with build(workspace, spec) as draft:
        imported = _import(config, dataset, draft)
        generated = rows.SCHEMA.empty_table()
        draft.facts.update(generated=0, reused=0, samples=[], seconds=0.0, rows_per_second=0.0)
        if model is not None:
            plan = Plan.of(config, dataset, model.digest)
            generated = _generate(config, plan, model, make_engine, draft, console)
        knowledge = pa.concat_tables([generated, *imported])
        pq.write_table(knowledge, draft.path / rows.KNOWLEDGE, compression="zstd")
        draft.facts.update(_describe(config, knowledge, asked))
        _warn(draft.facts, console)
    return Artifact.open(draft.path)


def _find_model(config: ExperimentConfig) -> LanguageModel:
    llm = config.knowledge.llm
    memo = Path(config.compute.workspace) / ".digests"
    if llm.model == "world":
        from lorecast.world import llm_path

        return find_language_model(str(llm_path()), memo=memo)
    return find_language_model(llm.model, llm.revision, memo=memo)


def _spec(
    config: ExperimentConfig,
    dataset: Dataset,
    asked: Sequence[Question],
    model: LanguageModel | None,
) -> StageSpec:
    """Contents decide, not paths: files, factor sets and model stand with their digests."""
    digests = {question.field: {"factor_set": question.factor_set.digest} for question in asked}
    digests |= {
        field.name: {"file": import_digest(field, _root(config))}
        for field in config.knowledge.fields
        if isinstance(field, ImportedField)
    }
    identity: dict[str, Any] = {
        "fields": [field.identity() | digests[field.name] for field in config.knowledge.fields]
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
    ids = {
        "item": dataset.items()["id"].combine_chunks(),
        "user": dataset.users()["id"].combine_chunks(),
    }
    tables, facts = [], []
    for field in config.knowledge.fields:
        if not isinstance(field, ImportedField):
            continue
        texts = import_texts(field, _root(config), ids[field.side])
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


def _generate(
    config: ExperimentConfig,
    plan: Plan,
    model: LanguageModel,
    make_engine: MakeEngine | None,
    draft: Draft,
    console: Console,
) -> pa.Table:
    """The generated fields' rows; what the store lacks is asked first."""
    knowledge_store = KnowledgeStore(Path(config.compute.workspace) / store.FOLDER)
    stored = knowledge_store.answered_keys()
    wanted: list[pa.Table] = []
    shown: dict[str, pa.Table] = {}  # the first prompts of each side, to pick samples from

    def missing() -> Iterator[pa.Table]:
        for block in plan.blocks():
            shown.setdefault(block["side"][0].as_py(), block)
            wanted.append(block.drop_columns(["chat"]))
            yield block.filter(pc.invert(pc.is_in(block["key"], value_set=stored)))

    prompts = draft.path / "prompts"
    blocks = write_blocks(missing(), prompts, config.compute.engine_batch)
    if blocks:
        _ask(config, blocks, model, make_engine, knowledge_store, draft, console)
    shutil.rmtree(prompts)

    planned = pa.concat_tables(wanted)
    answers = knowledge_store.fetch(planned["key"].combine_chunks())
    taken = [name for name in rows.SCHEMA.names if name not in planned.column_names]
    for name in taken:
        planned = planned.append_column(name, answers[name])
    generated = planned.select(rows.SCHEMA.names)
    draft.facts["reused"] = generated.num_rows - draft.facts["generated"]
    draft.facts["samples"] = _samples(generated, shown)
    return generated


def _ask(
    config: ExperimentConfig,
    blocks: Sequence[Path],
    model: LanguageModel,
    make_engine: MakeEngine | None,
    knowledge_store: KnowledgeStore,
    draft: Draft,
    console: Console,
) -> None:
    """Fills the store with the blocks' answers, within the error budget; facts of speed."""
    knowledge, compute = config.knowledge, config.compute
    if make_engine is None:
        check_installed()
        on_gpu = compute.engine_gpus > 0
        make_engine = partial(
            VLLMEngine, VLLMSettings(model=model, llm=knowledge.llm, on_gpu=on_gpu)
        )
    total = sum(pq.read_metadata(block).num_rows for block in blocks)
    started_s = time.monotonic()
    done = Tally()
    answered = ask(
        blocks,
        make_engine,
        knowledge_store,
        model=model.source,
        run_id=uuid.uuid4().hex,
        compute=compute,
        environment=thread_environment(compute, compute.engines)
        | environment(model, compute.engine_gpus),
    )
    with closing(answered), console.progress("generate", total) as task:
        for counts in answered:
            done.add(counts)
            tokens_per_s = round(done.output_tokens * compute.engines / done.engine_seconds)
            task.advance(counts.asked, failed=done.failed, **{"tokens/s": tokens_per_s})
            if done.failed > knowledge.error_budget * total:
                raise EngineError(
                    f"{done.failed:,} of {done.asked:,} prompts failed, and "
                    f"knowledge.error_budget allows {knowledge.error_budget:.1%} of {total:,}; "
                    f"the first: {done.reason}. All other answers are stored: mend the cause and "
                    "run again"
                )
    seconds = time.monotonic() - started_s
    engine_seconds = done.engine_seconds / compute.engines
    draft.facts.update(
        generated=done.asked,
        seconds=round(seconds, 3),
        rows_per_second=round(done.asked / seconds, 1),
        engine_seconds=round(engine_seconds, 3),
        engine_rows_per_second=round(done.asked / engine_seconds, 1),
        engine_tokens_per_second=round(done.output_tokens / engine_seconds, 1),
    )


def _samples(generated: pa.Table, shown: Mapping[str, pa.Table]) -> list[dict[str, str]]:
    """A few prompts with their answers: sides in turn, each time another factor."""
    by_side = [
        [_sample(generated, prompts, chunk) for chunk in range(_NUM_SAMPLES)]
        for prompts in shown.values()
    ]
    in_turn = chain.from_iterable(zip_longest(*by_side))
    return [sample for sample in in_turn if sample is not None][:_NUM_SAMPLES]


def _sample(generated: pa.Table, prompts: pa.Table, chunk: int) -> dict[str, str] | None:
    """The first of these prompts for this chunk that has an `ok` answer."""
    prompts = prompts.filter(pc.equal(prompts["chunk"], chunk))
    good = pc.and_(
        pc.is_in(generated["key"], value_set=prompts["key"].combine_chunks()),
        pc.equal(generated["status"], "ok"),
    )
    found = generated.filter(good).slice(0, 1).to_pylist()
    if not found:
        return None
    [row] = found
    [chat] = prompts.filter(pc.equal(prompts["key"], row["key"]))["chat"].to_pylist()
    prompt = json.loads(chat)[-1]["content"]
    return {"prompt": prompt, "answer": row["text"]} | {k: row[k] for k in ("side", "factor", "id")}


def _describe(
    config: ExperimentConfig, knowledge: pa.Table, asked: Sequence[Question]
) -> dict[str, Any]:
    """Facts about the finished table."""
    factors = {question.field: list(question.factors) for question in asked}
    for field in config.knowledge.fields:
        if isinstance(field, ImportedField):
            chunk = knowledge.filter(pc.equal(knowledge["field"], field.name))["chunk"]
            factors[field.name] = [str(number + 1) for number in range(pc.max(chunk).as_py() + 1)]
    counts = pc.value_counts(knowledge["status"]).to_pylist()
    return {
        "fields": [
            {"name": field.name, "side": field.side, "factors": factors[field.name]}
            for field in config.knowledge.fields
        ],
        "counts": {count["values"]: count["counts"] for count in counts},
        "prompt_tokens": pc.sum(knowledge["prompt_tokens"]).as_py() or 0,
        "output_tokens": pc.sum(knowledge["output_tokens"]).as_py() or 0,
    }


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
