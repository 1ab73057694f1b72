"""From the store's answers to knowledge rows: one per entity, field and chunk (`rows.SCHEMA`).

An answer about one factor is one row. An object with all factors becomes a row a factor, prose a
row a group of sentences. A group's rows become rows of every member.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lorecast.data.dataset import Dataset
from lorecast.knowledge import rows
from lorecast.knowledge.answers import parse_json_answer
from lorecast.knowledge.groups import ALL_FACTORS, FieldGroups, Groups
from lorecast.knowledge.plan import Question
from lorecast.knowledge.sentences import group_evenly, split_sentences
from lorecast.knowledge.store import StoreIndex

WANTED: Final = (
    "key", "side", "row", "group", "id", "field", "factor", "chunk", "history_end",
)  # fmt: skip
"""Columns of `plan.SCHEMA` that the join needs: all but the prompts."""
_ANSWER: Final = ("text", "status", "reason", "prompt_tokens", "output_tokens", "certainty")
_MEMBERS_AT_ONCE: Final = 8192


def knowledge_rows(
    wanted: Iterable[pa.Table],
    stored: StoreIndex,
    questions: Sequence[Question],
    groups: Mapping[str, FieldGroups],
    dataset: Dataset,
) -> Iterator[pa.Table]:
    """The rows of all wanted keys, which must be stored, a few thousand at a time.

    Rows of entities come in the order of `wanted`, those of members of groups after them.
    """
    by_field = {question.field: question for question in questions}
    about_groups: list[pa.Table] = []
    for block in wanted:
        answered = _answered(block, stored.fetch(block["key"].combine_chunks()))
        for part in _split_joint(answered, by_field):
            is_group = part["group"].is_valid()
            if pc.any(is_group).as_py():
                about_groups.append(part.filter(is_group))
                part = part.filter(pc.invert(is_group))
            if part.num_rows:
                yield _finish(part, np.ones(part.num_rows, np.float32))
    if about_groups:
        table = pa.concat_tables(about_groups)
        for name, of_field in groups.items():
            for factor, of_factor in of_field.items():
                chosen = pc.equal(table["field"], name)
                if factor != ALL_FACTORS:
                    chosen = pc.and_(chosen, pc.equal(table["factor"], factor))
                rows_of_groups = table.filter(chosen)
                yield from _members_rows(rows_of_groups, of_factor, by_field[name], dataset)


def answered_rows(prompts: pa.Table, answers: pa.Table, questions: Sequence[Question]) -> pa.Table:
    """The rows of prompts about entities, whose answers (`store.SCHEMA`) come in their order."""
    by_field = {question.field: question for question in questions}
    parts = _split_joint(_answered(prompts, answers), by_field)
    return pa.concat_tables([_finish(part, np.ones(part.num_rows, np.float32)) for part in parts])


def _answered(wanted: pa.Table, answers: pa.Table) -> pa.Table:
    answered = wanted.select(WANTED)
    for name in _ANSWER:
        answered = answered.append_column(name, answers[name])
    return answered


def _split_joint(answered: pa.Table, questions: Mapping[str, Question]) -> Iterator[pa.Table]:
    """Turns calls for all factors of a field to a row a chunk; other rows pass, in order."""
    joint = [q for q in questions.values() if q.config.answer != "factor"]
    if not joint:
        yield answered
        return
    names = pa.array([question.field for question in joint])
    is_joint = pc.and_(
        pc.is_in(answered["field"], value_set=names), pc.equal(answered["status"], "ok")
    )
    yield answered.filter(pc.invert(is_joint))
    for question in joint:
        part = answered.filter(pc.and_(is_joint, pc.equal(answered["field"], question.field)))
        if part.num_rows:
            split = _objects if question.config.answer == "json" else _prose
            yield split(part, question)


def _objects(part: pa.Table, question: Question) -> pa.Table:
    num_factors = len(question.factors)
    texts: list[str] = []
    for text in part["text"].to_pylist():
        values = parse_json_answer(text)
        assert values is not None, "an answer that is ok parses"
        texts += [values[factor] for factor in question.factors]
    factors = pa.array(question.factors, pa.string())
    owner = np.repeat(np.arange(part.num_rows), num_factors)
    chunk = np.tile(np.arange(num_factors), part.num_rows)
    return _chunked(part, owner, chunk, factors.take(pa.array(chunk)), pa.array(texts))


def _prose(part: pa.Table, question: Question) -> pa.Table:
    sentences = split_sentences(part["text"].combine_chunks())
    chunks = group_evenly(sentences, question.config.max_chunks)
    offsets = chunks.offsets.to_numpy()
    owner = np.repeat(np.arange(part.num_rows), np.diff(offsets))
    chunk = np.arange(owner.size) - offsets[owner]
    names = pa.array(chunk + 1).cast(pa.string())
    return _chunked(part, owner, chunk, names, chunks.flatten())


def _chunked(
    part: pa.Table,
    owner: NDArray[np.integer],
    chunk: NDArray[np.integer],
    factor: pa.Array,
    text: pa.Array,
) -> pa.Table:
    """Lines of `part` repeated for their chunks; tokens are counted on the first."""
    table = part.take(pa.array(owner))
    first = pa.array(chunk == 0)
    changed = {"factor": factor, "chunk": pa.array(chunk, pa.int32()), "text": text}
    for name in ("prompt_tokens", "output_tokens"):
        changed[name] = pc.if_else(first, table[name], pa.scalar(0, pa.int32()))
    for name, values in changed.items():
        table = table.set_column(table.column_names.index(name), name, values)
    return table


def _members_rows(
    of_field: pa.Table, groups: Groups, question: Question, dataset: Dataset
) -> Iterator[pa.Table]:
    """The rows of groups, once for every member that takes them."""
    of_field = of_field.sort_by([("group", "ascending"), ("chunk", "ascending")])
    count_K = np.bincount(of_field["group"].to_numpy(), minlength=len(groups.prompts))
    start_K = np.concatenate(([0], np.cumsum(count_K)))[:-1]
    is_ok = pc.equal(of_field["status"], "ok").to_numpy()
    chunk = of_field["chunk"].to_numpy()
    entities = dataset.items() if question.side == "item" else dataset.users()
    ids = entities["id"].combine_chunks()
    ends = dataset.history_end() if question.side == "user" else None
    row_M, group_M, weight_M = groups.members()
    num_nearest = groups.nearest_NM.shape[1]
    for start in range(0, row_M.size, num_nearest * _MEMBERS_AT_ONCE):
        members = slice(start, start + num_nearest * _MEMBERS_AT_ONCE)
        repeats = count_K[group_M[members]]
        first = np.repeat(np.cumsum(repeats) - repeats, repeats)
        line = np.repeat(start_K[group_M[members]], repeats) + np.arange(repeats.sum()) - first
        row = np.repeat(row_M[members], repeats)
        weight = np.repeat(weight_M[members], repeats)
        # Where only one of two groups has a usable answer, it counts alone.
        place = (row - row.min()) * (chunk.max() + 1) + chunk[line]
        total = np.bincount(place, weights=weight * is_ok[line])[place]
        weight = np.where(is_ok[line], weight / np.maximum(total, 1e-6), weight)
        table = of_field.take(pa.array(line))
        changed = {"row": pa.array(row), "id": ids.take(pa.array(row - 1))}
        if ends is not None:
            changed["history_end"] = pa.array(ends[row])
        for name in ("prompt_tokens", "output_tokens"):
            changed[name] = pa.repeat(pa.scalar(0, pa.int32()), row.size)
        for name, values in changed.items():
            table = table.set_column(table.column_names.index(name), name, values)
        yield _finish(table, weight.astype(np.float32))


def _finish(table: pa.Table, weight: NDArray[np.float32]) -> pa.Table:
    return table.append_column("weight", pa.array(weight)).select(rows.SCHEMA.names)
