"""What knowledge costs a request, as it stands in latency.json: a line for each way of serving it.

After the study of inference time in KAR (Xi et al. 2023, arXiv 2306.10933).
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from lorecast.drawing import COLOURS, INK, figure
from lorecast.evaluation.tables import NOTHING, Line
from lorecast.evaluation.tables import markdown as table

Request = TypeVar("Request")
_WARM_UP: Final = 20
"""Requests of each way before the clock runs."""
_TAIL_FROM: Final = 100
"""Fewer requests have no 99th percentile."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Way(_Record):
    """Requests served in one way; bytes are what is stored of an entity's knowledge."""

    name: str
    items: int
    """Candidates of a request."""
    requests: int
    p50_ms: float
    p99_ms: float | None
    """None: too few requests to tell."""
    item_bytes: int
    user_bytes: int

    @classmethod
    def of(
        cls, name: str, items: int, taken_s: Sequence[float], item_bytes: int, user_bytes: int
    ) -> Self:
        """`taken_s`: seconds of each request."""
        p50, p99 = 1000 * np.percentile(taken_s, (50, 99))
        return cls(
            name=name,
            items=items,
            requests=len(taken_s),
            p50_ms=float(p50),
            p99_ms=float(p99) if len(taken_s) >= _TAIL_FROM else None,
            item_bytes=item_bytes,
            user_bytes=user_bytes,
        )


class Online(_Record):
    """Requests whose texts were written while they waited."""

    prompts: int
    output_tokens: int
    texts: int
    """Usable ones, of all requests, and those stored of the same entities."""
    same_texts: int
    """As they are stored."""
    llm_ms: float
    encoder_ms: float
    extractor_ms: float
    """Medians."""
    largest_difference: float
    """Of a score to that by stored vectors."""
    same_pairs: int
    """Pairs whose every text is as it is stored."""
    largest_difference_same: float | None
    """Of these pairs; None if there are none."""


class Latency(_Record):
    """All ways, the dearest first."""

    name: str
    model: str
    ways: tuple[Way, ...]
    online: Online | None
    notes: tuple[str, ...]
    """What was left out, and why."""


def in_turns(
    ways: Mapping[str, Callable[[Request], object]], requests: Sequence[Request]
) -> dict[str, list[float]]:
    """Seconds of each request in each way, one way after the other; the first requests warm up."""
    taken_s: dict[str, list[float]] = {name: [] for name in ways}
    with one_thread():
        for request in [*requests[:_WARM_UP], *requests]:
            for name, answer in ways.items():
                started_s = time.perf_counter()
                answer(request)
                taken_s[name].append(time.perf_counter() - started_s)
    return {name: taken[-len(requests) :] for name, taken in taken_s.items()}


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch computes with one thread, as a replica does."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def lines(latency: Latency) -> list[Line]:
    """A line a way."""
    return [
        {
            "way": way.name,
            "items": f"{way.items:,}",
            "requests": f"{way.requests:,}",
            "p50 ms": _ms(way.p50_ms),
            "p99 ms": NOTHING if way.p99_ms is None else _ms(way.p99_ms),
            "bytes an item": f"{way.item_bytes:,}",
            "bytes a user": f"{way.user_bytes:,}",
        }
        for way in latency.ways
    ]


def parts(online: Online) -> list[Line]:
    """A line a part of a request that waits for its texts."""
    taken_ms = {
        "LLM": online.llm_ms,
        "encoder": online.encoder_ms,
        "extractor and backbone": online.extractor_ms,
    }
    return [{"part": name, "p50 ms": _ms(ms)} for name, ms in taken_ms.items()]


def agreement(online: Online) -> str:
    """How texts and scores compare with the stored ones, in a sentence."""
    told = (
        f"{online.same_texts:,} of {online.texts:,} texts came out as they are stored; scores "
        f"differ from those by stored vectors by at most {online.largest_difference:.1e}"
    )
    if online.same_texts == online.texts or online.largest_difference_same is None:
        return told
    return (
        f"{told}, and by at most {online.largest_difference_same:.1e} over the "
        f"{online.same_pairs:,} pairs with the same texts"
    )


def markdown(latency: Latency) -> str:
    """All there is to read, beside latency.svg."""
    told = [f"# What knowledge costs a request of {latency.name}"]
    told += [f"One user's candidates, {latency.model}.", table(lines(latency))]
    told += ["![latency](latency.svg)"]
    if latency.online:
        told += [table(parts(latency.online)), f"{agreement(latency.online)}."]
    return "\n\n".join([*told, *latency.notes]) + "\n"


def draw(latency: Latency, path: Path) -> None:
    """Bars of the medians on a log axis; a tick where the 99th percentile lies."""
    title = f"What knowledge costs a request: {latency.model}"
    with figure(path, title, width=7.5, height=1.3 + 0.45 * len(latency.ways)) as (_, axes):
        _bars(axes, latency.ways)


def _bars(axes: Any, ways: Sequence[Way]) -> None:
    place = np.arange(len(ways))[::-1]
    floor = 10 ** np.floor(np.log10(min(way.p50_ms for way in ways)) - 0.3)
    axes.barh(place, [way.p50_ms - floor for way in ways], left=floor, color=COLOURS[0])
    for y, way in zip(place, ways, strict=True):
        if way.p99_ms is not None:
            axes.plot(way.p99_ms, y, "|", ms=14, mew=2, color=COLOURS[1])
        axes.annotate(
            f"{_ms(way.p50_ms)} ms",
            (max(way.p50_ms, way.p99_ms or 0), y),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=INK,
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.set_xlim(floor, 4 * max(way.p99_ms or way.p50_ms for way in ways))
    axes.set_yticks(place, [f"{way.name}\n{way.items:,} items" for way in ways])
    axes.set_xlabel("ms a request (bar: median, tick: 99th percentile)")
    axes.grid(axis="x")


def _ms(ms: float) -> str:
    return f"{ms:,.0f}" if ms >= 100 else f"{ms:.2f}"
