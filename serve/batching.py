"""Requests of several users in one pass of the model.

While the model scores, further requests arrive; those that are there when it is done are its next
batch. Nobody waits for a window to end: one client alone is answered at once.
"""

import asyncio
from collections import deque

from lorecast.lifecycle.scorer import Query, Scored, Scorer

_TURNS = 2
"""Of the event loop between a first request and its pass: what has arrived by then goes along."""


class Batches:
    """Scores queries in the order they come, as many at once as `Scorer.together` says is of use.
    Belongs to one event loop, on which the model runs."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self._waiting: deque[tuple[Query, asyncio.Future[Scored]]] = deque()

    async def answer(self, query: Query) -> Scored:
        """As `Scorer.candidates`."""
        answered: asyncio.Future[Scored] = asyncio.get_running_loop().create_future()
        self._waiting.append((query, answered))
        if len(self._waiting) == 1:
            self._in(_TURNS)
        return await answered

    def _in(self, turns: int) -> None:
        loop = asyncio.get_running_loop()
        if turns:
            loop.call_soon(self._in, turns - 1)
        else:
            self._score()

    def _score(self) -> None:
        """One pass; what is left waits until its answers are on their way."""
        batch = [self._waiting.popleft()]
        candidates = len(batch[0][0].item_ids)
        while self._waiting:
            candidates += len(self._waiting[0][0].item_ids)
            if candidates > self._scorer.together:
                break
            batch.append(self._waiting.popleft())
        if self._waiting:
            self._in(_TURNS)
        batch = [(query, answered) for query, answered in batch if not answered.done()]
        if not batch:
            return
        try:
            scored = self._scorer.answer([query for query, _ in batch])
        except Exception as error:  # each request tells it as its own
            for _, answered in batch:
                answered.set_exception(error)
            return
        for (_, answered), one in zip(batch, scored, strict=True):
            answered.set_result(one)
