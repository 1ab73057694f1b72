"""What a plan would cost: calls and tokens, before any is spent.

Keys are made for every prompt, so wanted, stored and missing are exact. Tokens are counted with the
model's tokenizer on a sample of the missing prompts and come with a 95 % interval; written tokens
are those of stored answers to the same field, or unknown below the limit.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lorecast.knowledge.plan import Plan
from lorecast.knowledge.store import StoreIndex

CountTokens = Callable[[Sequence[str]], list[int]]
"""Tokens of each prompt, given as JSON of its messages."""

_SAMPLE: Final = 256
_Z_95: Final = 1.96


@dataclass(frozen=True, kw_only=True)
class Amount:
    """A number with its 95 % interval."""

    mean: float
    low: float
    high: float

    @classmethod
    def of_sample(cls, values: Sequence[int], size: int) -> "Amount":
        """The sum over `size` things of which `values` are a sample."""
        if not values or not size:
            return cls(mean=0.0, low=0.0, high=0.0)
        mean = float(np.mean(values))
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        # A sample of all leaves nothing unknown.
        unseen = sqrt(max(0.0, 1 - len(values) / size))
        half = _Z_95 * spread / sqrt(len(values)) * unseen
        return cls(mean=size * mean, low=size * (mean - half), high=size * (mean + half))

    def __add__(self, other: "Amount") -> "Amount":
        # Independent samples: half-widths add as squares.
        mean = self.mean + other.mean
        below = sqrt((self.mean - self.low) ** 2 + (other.mean - other.low) ** 2)
        above = sqrt((self.high - self.mean) ** 2 + (other.high - other.mean) ** 2)
        return Amount(mean=mean, low=mean - below, high=mean + above)


NOTHING: Final = Amount(mean=0.0, low=0.0, high=0.0)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one field, or a whole plan, asks for."""

    wanted: int
    stored: int
    prompt_tokens: Amount
    output_tokens: Amount

    @property
    def missing(self) -> int:
        """Calls to be made."""
        return self.wanted - self.stored

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            wanted=self.wanted + other.wanted,
            stored=self.stored + other.stored,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
        )


FREE: Final = Cost(wanted=0, stored=0, prompt_tokens=NOTHING, output_tokens=NOTHING)


def total(costs: Iterable[Cost]) -> Cost:
    """All of them together."""
    return sum(costs, FREE)


def estimate(
    plan: Plan,
    stored: StoreIndex,
    count_tokens: CountTokens,
    max_tokens: int,
    written: Mapping[str, Sequence[int]],
    seed: int = 0,
) -> dict[str, Cost]:
    """The cost of every generated field of `plan`, by name.

    `max_tokens`: the longest answer; `written`: tokens of answers to a field that are known.
    Without such, an answer may have any length up to the limit, and half of it is the mean.
    """
    random = np.random.default_rng(seed)
    wanted: dict[str, int] = {question.field: 0 for question in plan.questions}
    answered = dict(wanted)
    samples: dict[str, list[tuple[float, str]]] = {name: [] for name in wanted}
    for block in plan.blocks():
        is_stored = stored.is_answered(block["key"])
        for name in pc.unique(block["field"]).to_pylist():
            of_field = pc.equal(block["field"], name).to_numpy()
            wanted[name] += int(of_field.sum())
            answered[name] += int((of_field & is_stored).sum())
            lacking = block["chat"].filter(pa.array(of_field & ~is_stored)).to_pylist()
            # Those with the smallest random marks are a fair sample of a stream.
            marked = samples[name] + list(zip(random.random(len(lacking)), lacking, strict=True))
            samples[name] = sorted(marked)[:_SAMPLE]
    return {
        name: Cost(
            wanted=wanted[name],
            stored=answered[name],
            prompt_tokens=Amount.of_sample(
                count_tokens([chat for _, chat in samples[name]]), wanted[name] - answered[name]
            ),
            output_tokens=_written(wanted[name] - answered[name], max_tokens, written.get(name)),
        )
        for name in wanted
    }


def written_tokens(store_rows: pa.Table, limit: int = 10_000) -> dict[str, list[int]]:
    """Tokens of stored `ok` answers by field, from rows of the store."""
    known = store_rows.filter(pc.equal(store_rows["status"], "ok"))
    return {
        name: known.filter(pc.equal(known["field"], name))["output_tokens"].to_pylist()[:limit]
        for name in pc.unique(known["field"]).to_pylist()
    }


def _written(calls: int, max_tokens: int, known: Sequence[int] | None) -> Amount:
    if known:
        mean, spread = float(np.mean(known)), float(np.std(known))
        half = _Z_95 * spread / sqrt(len(known))
        return Amount(mean=calls * mean, low=calls * (mean - half), high=calls * (mean + half))
    return Amount(mean=calls * max_tokens / 2, low=float(calls), high=float(calls * max_tokens))
