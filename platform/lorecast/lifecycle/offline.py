"""Scores of many pairs at once, tables in and tables out; the same scores as over HTTP.

Rows are taken in the order of their users, so that what depends on a user alone is worked out once
for all of that user's rows; answers stand in the order asked for.

Shapes: B pairs, U users, N candidates, K context features.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lorecast.config import Side
from lorecast.data import parsing
from lorecast.errors import InputError
from lorecast.lifecycle.scorer import Scorer, Scores

ROWS_AT_ONCE: Final = 1 << 16
"""Pairs in memory at once."""
_Parse = Callable[[parsing.Column], pa.StringArray]
_EXAMPLES = 5
_COUNTS = b"lorecast.counts"
"""Key of a table's metadata."""


@dataclass(frozen=True, kw_only=True)
class PairColumns:
    """How columns of ids are called."""

    user: str
    item: str


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Pairs scored, and what of them the model has never seen."""

    rows: int
    unknown: Mapping[str, int]
    """Pairs by what is new in them: `user`, `item`, or the name of a context."""
    examples: Mapping[str, tuple[str, ...]]
    """Some ids of either side."""

    @classmethod
    def sum(cls, parts: Iterable["Counts"]) -> Self:
        """Those of several tables."""
        rows, unknown = 0, Counter[str]()
        examples: dict[str, dict[str, None]] = {}
        for part in parts:
            rows += part.rows
            unknown.update(part.unknown)
            for side, ids in part.examples.items():
                examples.setdefault(side, {}).update(dict.fromkeys(ids))
        return cls(
            rows=rows,
            unknown=dict(unknown),
            examples={side: tuple(ids)[:_EXAMPLES] for side, ids in examples.items()},
        )

    @classmethod
    def of(cls, schema: pa.Schema) -> Self:
        """Those that `noted` kept beside a table."""
        return cls(**json.loads(schema.metadata[_COUNTS]))


def noted(table: pa.Table, counts: Counts) -> pa.Table:
    """The table, which says what it counts wherever it is written."""
    return table.replace_schema_metadata({_COUNTS: json.dumps(vars(counts))})


def score_pairs(scorer: Scorer, pairs: pa.Table, columns: PairColumns) -> tuple[pa.Table, Counts]:
    """The pairs with `score`, `user_known` and `item_known`; a column of a context's name is one.

    A missing id counts as unknown. Raises InputError for a column whose type can hold no ids.
    """
    parts = [
        _score_some(scorer, pairs.slice(start, ROWS_AT_ONCE), columns)
        for start in range(0, pairs.num_rows, ROWS_AT_ONCE)
    ]
    return pa.concat_tables([table for table, _ in parts]), Counts.sum(c for _, c in parts)


def top_items(
    scorer: Scorer, user_row_U: NDArray[np.int32], item_row_N: NDArray[np.int32], k: int
) -> tuple[NDArray[np.int64], Scores]:
    """(best_UK, score_UK): places of the k best candidates of each user, best first, and their
    scores; ties keep the order of the candidates, as in `Scorer.rank`."""
    k = min(k, len(item_row_N))
    users_at_once = max(1, ROWS_AT_ONCE // len(item_row_N))
    best_UK = np.empty((len(user_row_U), k), np.int64)
    score_UK = np.empty((len(user_row_U), k), np.float32)
    for start in range(0, len(user_row_U), users_at_once):
        here = slice(start, start + users_at_once)
        score_UN = _all_pairs(scorer, user_row_U[here], item_row_N)
        best_UK[here] = np.argsort(-score_UN, axis=1, kind="stable")[:, :k]
        score_UK[here] = np.take_along_axis(score_UN, best_UK[here], axis=1)
    return best_UK, score_UK


def _all_pairs(
    scorer: Scorer, user_row_U: NDArray[np.int32], item_row_N: NDArray[np.int32]
) -> Scores:
    """score_UN, so many candidates at once."""
    parts = []
    for start in range(0, len(item_row_N), ROWS_AT_ONCE):
        item_row_M = item_row_N[start : start + ROWS_AT_ONCE]
        score_B = scorer.score_rows(
            np.repeat(user_row_U, len(item_row_M)), np.tile(item_row_M, len(user_row_U))
        )
        parts.append(score_B.reshape(len(user_row_U), -1))
    score_UN: Scores = np.concatenate(parts, axis=1)
    return score_UN


def _score_some(scorer: Scorer, pairs: pa.Table, columns: PairColumns) -> tuple[pa.Table, Counts]:
    user_row_B, user_examples = _rows(scorer, "user", pairs, columns.user)
    item_row_B, item_examples = _rows(scorer, "item", pairs, columns.item)
    context_BK = np.zeros((pairs.num_rows, len(scorer.context_names)), np.int32)
    unknown = {"user": int((user_row_B == 0).sum()), "item": int((item_row_B == 0).sum())}
    for place, name in enumerate(scorer.context_names):
        if name in pairs.column_names:
            values = _read(pairs, name, parsing.categories)
            codes = values.dictionary_encode()
            of_value = scorer.context_codes([{name: v} for v in codes.dictionary.to_pylist()])
            context_BK[:, place] = _of_rows(codes, of_value[:, place])
            new_B = (context_BK[:, place] == 0) & values.is_valid().to_numpy(zero_copy_only=False)
            unknown[name] = int(new_B.sum())
    order_B = np.argsort(user_row_B, kind="stable")
    score_B = np.empty(pairs.num_rows, np.float32)
    score_B[order_B] = scorer.score_rows(
        user_row_B[order_B], item_row_B[order_B], context_BK[order_B]
    )
    scored = (
        pairs.append_column("score", pa.array(score_B))
        .append_column("user_known", pa.array(user_row_B > 0))
        .append_column("item_known", pa.array(item_row_B > 0))
    )
    examples = {"user": user_examples, "item": item_examples}
    return scored, Counts(rows=pairs.num_rows, unknown=unknown, examples=examples)


def _rows(
    scorer: Scorer, side: Side, pairs: pa.Table, column: str
) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    """The rows of a column's ids, 0 where unknown or missing, and examples of the unknown."""
    codes = _read(pairs, column, parsing.ids).dictionary_encode()
    ids = codes.dictionary.to_pylist()
    row_D = scorer.rows(side, ids)
    examples = tuple(ids[place] for place in np.flatnonzero(row_D == 0)[:_EXAMPLES])
    return _of_rows(codes, row_D), examples


def _of_rows(codes: pa.DictionaryArray, value_D: NDArray[np.int32]) -> NDArray[np.int32]:
    """value_B of a dictionary's values; 0 where a row has none."""
    place_B = codes.indices.fill_null(len(value_D)).to_numpy()
    value_B: NDArray[np.int32] = np.append(value_D, np.int32(0))[place_B]
    return value_B


def _read(pairs: pa.Table, column: str, parse: _Parse) -> pa.StringArray:
    try:
        return parse(pairs[column])
    except TypeError as error:
        kind = pairs.schema.field(column).type
        raise InputError(f"column {column!r} is {kind}, expected {error}") from None
