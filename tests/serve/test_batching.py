"""Requests that wait together are scored together, each with its own answer."""

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from lorecast.lifecycle.scorer import Query, Scored, Unknown
from lorecast.serve.batching import Batches

_NOTHING = Unknown(user_ids=(), item_ids=(), history_item_ids=(), context=())


class Passes:
    """A scorer that says how long each query was, and keeps how many came at once."""

    together = 10

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def answer(self, queries: Sequence[Query]) -> list[Scored]:
        self.sizes.append(len(queries))
        if any(query.user_id == "bad" for query in queries):
            raise ValueError("bad")
        return [
            Scored(item_ids=q.item_ids, score_N=np.full(len(q.item_ids), n, "f4"), unknown=_NOTHING)
            for n, q in enumerate(queries)
        ]


def ask(passes: Any, *lengths: int) -> list[Scored]:
    async def all_at_once() -> list[Scored]:
        batches = Batches(passes)
        queries = [Query(str(n), [f"{n}-{i}" for i in range(N)]) for n, N in enumerate(lengths)]
        return await asyncio.gather(*map(batches.answer, queries))

    return asyncio.run(all_at_once())


def test_alone() -> None:
    passes = Passes()
    (scored,) = ask(passes, 3)
    assert passes.sizes == [1]
    assert scored.item_ids == ["0-0", "0-1", "0-2"]


def test_as_many_as_are_of_use_in_their_order() -> None:
    passes = Passes()
    scored = ask(passes, 4, 6, 1, 20, 2, 3)
    assert passes.sizes == [2, 1, 1, 2]
    assert [len(one.score_N) for one in scored] == [4, 6, 1, 20, 2, 3]
    assert [one.item_ids[0] for one in scored] == [f"{n}-0" for n in range(6)]
    assert [one.score_N[0] for one in scored] == [0, 1, 0, 0, 0, 1]


def test_one_after_the_other() -> None:
    passes = Passes()

    async def twice() -> None:
        batches = Batches(passes)  # type: ignore[arg-type]
        await batches.answer(Query("u", ["i"]))
        await batches.answer(Query("u", ["i"]))

    asyncio.run(twice())
    assert passes.sizes == [1, 1]


def test_who_has_gone_is_left_out() -> None:
    passes = Passes()

    async def gone() -> Scored:
        batches = Batches(passes)  # type: ignore[arg-type]
        first = asyncio.create_task(batches.answer(Query("u", ["i"])))
        second = asyncio.create_task(batches.answer(Query("v", ["i"])))
        await asyncio.sleep(0)
        first.cancel()
        return await second

    assert asyncio.run(gone()).item_ids == ["i"]
    assert passes.sizes == [1]


def test_an_error_is_told_and_the_next_batch_is_scored() -> None:
    passes = Passes()

    async def after() -> Scored:
        batches = Batches(passes)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="bad"):
            await batches.answer(Query("bad", ["i"]))
        return await batches.answer(Query("good", ["i"]))

    assert asyncio.run(after()).item_ids == ["i"]
