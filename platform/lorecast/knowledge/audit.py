"""What knowledge is worth, factor by factor: length, sameness, redundancy, names, truth."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lorecast.knowledge.names import count_names
from lorecast.knowledge.overlap import TextSets, fold
from lorecast.knowledge.quality import entity_pairs, factor_codes

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

TRUTH: Final = pa.schema([("right", pa.bool_()), ("quarter", pa.int8())])
"""Columns that a table has where the truth is known. right: whether the answer is true, null if not
judged. quarter: of the entity's popularity, 1 (most interactions) to 4; null if it has none."""
PROMPTS: Final = pa.schema([("key", pa.string()), ("text", pa.string())])

_REPEATS: Final = 5
"""Answers must repeat so often, on average, for "who knows one knows the other" to mean a thing."""


@dataclass(frozen=True, kw_only=True)
class FactorFigures:
    """One factor of one field of one side. Shares lie in 0 to 1."""

    side: str
    field: str
    factor: str
    texts: int
    """Rows, whatever their status; all further figures are of the ok ones."""
    status: Mapping[str, float]
    """Share of the rows by status."""
    words: tuple[float, float, float]
    """5th, 50th and 95th percentile."""
    distinct: int
    """Different answers, case, spacing and punctuation aside."""
    copied: float
    """Share of answers that another entity has as well."""
    near_copied: float
    """Share of answers that near copies link to another entity's."""
    top_answer: str
    top_share: float
    """The most frequent answer and its share: 1 is a homogenised factor."""
    echo: float
    """Mean of the largest word overlap with another factor's answer about the same entity."""
    names: float | None
    """Names an answer (`names.count_names`); none without prompts."""
    names_from_prompt: float | None
    """Share of the names that the prompt has; the others the model brought."""
    accuracy: Mapping[str, float]
    """Share of true answers among the judged: all, and popular and rare (outer quarters)."""

    @property
    def label(self) -> str:
        return f"{self.side} factor `{self.factor}` of `{self.field}`"


@dataclass(frozen=True, kw_only=True)
class Redundancy:
    """How much the factors of one side say twice; matrices [F, F], NaN where nothing is known."""

    side: str
    factors: tuple[str, ...]
    """As `factor`, or `field.factor` where two fields of the side have one of that name."""
    overlap: Floats
    """Mean share of words (Jaccard) that two factors' answers about an entity have in common."""
    told: Floats
    """[a, b]: how much a's answer tells of b's: the share of wrong guesses about b, guessing its
    most frequent answer, that knowing a's answer avoids (Goodman and Kruskal's lambda)."""


@dataclass(frozen=True, kw_only=True)
class Audit:
    """The figures of one knowledge table."""

    factors: tuple[FactorFigures, ...]
    redundancy: tuple[Redundancy, ...]


def audit(table: pa.Table, prompts: pa.Table | None = None) -> Audit:
    """Figures of a table that `quality.with_quality` made, with the columns of TRUTH or without.

    `prompts` (of PROMPTS) are joined by key.
    """
    table = table.sort_by([(name, "ascending") for name in ("side", "field", "chunk")])
    table = table.append_column("code", pa.array(factor_codes(table)))
    ok = table.filter(pc.equal(table["status"], "ok"))
    ok = ok.append_column("folded", fold(ok["text"].combine_chunks()))
    if prompts is not None:
        ok = _with_names(ok, prompts)
    codes = range(pc.max(table["code"]).as_py() + 1 if table.num_rows else 0)
    return Audit(
        factors=tuple(
            _figures(*(rows.filter(pc.equal(rows["code"], code)) for rows in (table, ok)))
            for code in codes
        ),
        redundancy=tuple(
            _redundancy(side, ok.filter(pc.equal(ok["side"], side)))
            for side in pc.unique(ok["side"]).to_pylist()
        ),
    )


def _with_names(ok: pa.Table, prompts: pa.Table) -> pa.Table:
    place = pc.index_in(ok["key"], value_set=prompts["key"].combine_chunks())
    shown = prompts["text"].combine_chunks().take(place.combine_chunks())
    names = count_names(ok["text"].combine_chunks(), shown)
    no_prompt = ~np.asarray(shown.is_valid())
    ok = ok.append_column("names", pa.array(names.named, mask=no_prompt))
    return ok.append_column("names_in_prompt", pa.array(names.from_prompt, mask=no_prompt))


def _figures(rows: pa.Table, ok: pa.Table) -> FactorFigures:
    """Of one factor: all its rows, and the ok ones."""
    counts = pc.value_counts(rows["status"]).to_pylist()
    answers = pc.value_counts(ok["folded"])
    top, num_top = "", 0
    if len(answers):
        most = answers[int(np.argmax(answers.field("counts")))].as_py()
        num_top = most["counts"]
        top = ok["text"][pc.index(ok["folded"], most["values"]).as_py()].as_py()
    names, names_from_prompt = _names(ok)
    return FactorFigures(
        **{name: rows[name][0].as_py() for name in ("side", "field", "factor")},
        texts=rows.num_rows,
        status={entry["values"]: entry["counts"] / rows.num_rows for entry in counts},
        words=_percentiles(ok["words"].to_numpy()),
        distinct=len(answers),
        copied=_mean(pc.greater(ok["copies"], 1)),
        near_copied=_mean(pc.greater(ok["near_copies"], 1)),
        top_answer=top.strip(),
        top_share=num_top / max(ok.num_rows, 1),
        echo=_mean(ok["echo"]),
        accuracy=_accuracy(ok),
        names=names,
        names_from_prompt=names_from_prompt,
    )


def _accuracy(ok: pa.Table) -> dict[str, float]:
    if "right" not in ok.column_names or ok["right"].null_count == ok.num_rows:
        return {}
    parts = {"all": ok}
    for name, quarter in (("popular", 1), ("rare", 4)):
        part = ok.filter(pc.equal(ok["quarter"], quarter))
        if part.num_rows:
            parts[name] = part
    return {name: _mean(part["right"]) for name, part in parts.items()}


def _names(ok: pa.Table) -> tuple[float | None, float | None]:
    """Names an answer, and the share of them that the prompts have."""
    if "names" not in ok.column_names or ok["names"].null_count == ok.num_rows:
        return None, None
    num_names = pc.sum(ok["names"]).as_py()
    from_prompt = pc.sum(ok["names_in_prompt"]).as_py()
    return _mean(ok["names"]), from_prompt / num_names if num_names else None


def _redundancy(side: str, ok: pa.Table) -> Redundancy:
    """`ok`: the ok rows of one side."""
    codes, code = np.unique(ok["code"].to_numpy(), return_inverse=True)
    size = codes.size
    left, right = entity_pairs(ok)
    swap = code[left] > code[right]
    left, right = np.where(swap, right, left), np.where(swap, left, right)
    overlap = TextSets.words(ok["folded"].combine_chunks()).jaccard(left, right)
    answer = np.asarray(ok["folded"].combine_chunks().dictionary_encode().indices, np.int64)
    overlap_FF, told_FF = np.full((size, size), np.nan), np.full((size, size), np.nan)
    cell = code[left] * size + code[right]
    for pair in np.unique(cell):
        a, b = divmod(int(pair), size)
        lines = cell == pair
        answer_a, answer_b = answer[left[lines]], answer[right[lines]]
        overlap_FF[a, b] = overlap_FF[b, a] = overlap[lines].mean()
        told_FF[a, b], told_FF[b, a] = _told(answer_a, answer_b), _told(answer_b, answer_a)
    return Redundancy(side=side, factors=_labels(ok), overlap=overlap_FF, told=told_FF)


def _labels(ok: pa.Table) -> tuple[str, ...]:
    first = ok.take(pa.array(np.unique(ok["code"].to_numpy(), return_index=True)[1]))
    names, fields = first["factor"].to_pylist(), first["field"].to_pylist()
    return tuple(
        f"{field}.{name}" if names.count(name) > 1 else name
        for field, name in zip(fields, names, strict=True)
    )


def _told(known: Ints, guessed: Ints) -> float:
    """Lambda of one factor's answers given another's, about the same entities."""
    pairs, counts = np.unique(np.stack([known, guessed]), axis=1, return_counts=True)
    if np.unique(known).size * _REPEATS > known.size:
        return float("nan")
    best = np.zeros(int(known.max()) + 1, np.int64)
    np.maximum.at(best, pairs[0], counts)
    blind = int(np.bincount(guessed).max())
    return (
        float((best.sum() - blind) / (known.size - blind)) if blind < known.size else float("nan")
    )


def _percentiles(values: NDArray[np.int32]) -> tuple[float, float, float]:
    low, middle, high = np.percentile(values, [5, 50, 95]) if values.size else (0.0, 0.0, 0.0)
    return float(low), float(middle), float(high)


def _mean(values: pa.ChunkedArray) -> float:
    return float(pc.mean(values).as_py() or 0.0)
