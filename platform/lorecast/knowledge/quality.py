"""Quality of knowledge texts in figures, as columns that filters and audits read."""

from collections.abc import Mapping
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lorecast.knowledge.overlap import TextSets, fold, near_clusters, pairs_within

Ints = NDArray[np.int64]

SCORES: Final = pa.schema(
    [
        ("words", pa.int32()),
        ("copies", pa.int32()),
        ("near_copies", pa.int32()),
        ("echo", pa.float32()),
    ]
)
"""words: length of the text. copies: entities with this very answer of the same field and factor,
case, spacing and punctuation aside; itself included. near_copies: the same for answers that a chain
of near copies links (`overlap.NEAR`). echo: largest share of words (Jaccard, 0 to 1) that it has
in common with an answer of another factor about the same entity."""


def with_quality(table: pa.Table) -> pa.Table:
    """`table` (of `rows.SCHEMA`) with the columns of SCORES; null where the status is not ok."""
    is_ok = pc.equal(table["status"], "ok").combine_chunks()
    scored = _scores(table.filter(is_ok))
    place = np.cumsum(np.asarray(is_ok)) - 1
    where = pa.array(place, mask=~np.asarray(is_ok))
    for column in SCORES:
        table = table.append_column(column, scored[column.name].take(where))
    return table


def within(table: pa.Table, where: Mapping[str, tuple[float | None, float | None]]) -> pa.Array:
    """Which lines have all these score columns inside [lowest, highest]; none: no bound."""
    inside = pa.array(np.ones(table.num_rows, np.bool_))
    for column, (low, high) in where.items():
        values = table[column].combine_chunks().cast(pa.float64())
        if low is not None:
            inside = pc.and_(inside, pc.greater_equal(values, low))
        if high is not None:
            inside = pc.and_(inside, pc.less_equal(values, high))
    return inside


def usable(table: pa.Table, where: Mapping[str, tuple[float | None, float | None]]) -> pa.Table:
    """The texts of a table (of `rows.SCHEMA`) that become vectors: ok, and `within` bounds."""
    good = table.filter(pc.equal(table["status"], "ok"))
    return good.filter(within(with_quality(good), where)) if where else good


def factor_codes(table: pa.Table) -> Ints:
    """One number for each side, field and factor, from 0 in the order of appearance."""
    return _codes(table, "side", "field", "factor")


def entity_pairs(table: pa.Table) -> tuple[Ints, Ints]:
    """All pairs of lines about the same entity and of different factors."""
    entity, factor = _codes(table, "side", "row"), factor_codes(table)
    order = np.argsort(entity, kind="stable")
    pairs = [(order[first], order[second]) for first, second in pairs_within(entity[order])]
    pairs.append((order[:0], order[:0]))
    left, right = (np.concatenate(places) for places in zip(*pairs, strict=True))
    differ = factor[left] != factor[right]
    return left[differ], right[differ]


def _scores(table: pa.Table) -> pa.Table:
    folded = fold(table["text"].combine_chunks())
    factor, entity = factor_codes(table), _codes(table, "side", "row")
    answer = _number(factor, np.asarray(folded.dictionary_encode().indices, np.int64))
    left, right = entity_pairs(table)
    overlap = TextSets.words(folded).jaccard(left, right)
    echo = np.zeros(len(folded))
    np.maximum.at(echo, left, overlap)
    np.maximum.at(echo, right, overlap)
    num_words = pc.list_value_length(pc.split_pattern(folded, " "))
    columns = {
        "words": pc.if_else(pc.equal(folded, ""), 0, num_words),
        "copies": _num_entities(answer, entity),
        "near_copies": _num_entities(_near(factor, answer, folded), entity),
        "echo": echo,
    }
    return pa.table(columns).cast(SCORES)


def _near(factor: Ints, answer: Ints, folded: pa.StringArray) -> Ints:
    """Numbers of the clusters of near copies; `answer` numbers the distinct texts of factors."""
    cluster = np.zeros(factor.size, np.int64)
    for code in range(int(factor.max(initial=-1)) + 1):
        lines = np.flatnonzero(factor == code)
        _, first, place = np.unique(answer[lines], return_index=True, return_inverse=True)
        cluster[lines] = near_clusters(folded.take(pa.array(lines[first])))[place]
    return _number(factor, cluster)


def _num_entities(group: Ints, entity: Ints) -> Ints:
    """How many entities have a line in each line's group."""
    once = np.unique(_number(group, entity), return_index=True)[1]
    return np.bincount(group[once])[group] if group.size else group


def _codes(table: pa.Table, *columns: str) -> Ints:
    """A number of each combination of values, in the order of appearance."""
    keys = [table[name].combine_chunks().dictionary_encode().indices for name in columns]
    combined = _number(*(np.asarray(key, np.int64) for key in keys))
    return np.asarray(pa.array(combined).dictionary_encode().indices, np.int64)


def _number(first: Ints, *others: Ints) -> Ints:
    """A number of each combination of keys, from 0, ascending with the keys."""
    code = first
    for key in others:
        _, code = np.unique(code * (int(key.max(initial=0)) + 1) + key, return_inverse=True)
    return code
