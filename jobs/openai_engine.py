"""Any OpenAI-compatible endpoint: calls side by side, paced, and repeated while it is busy or down.

An endpoint that restarts costs waiting and no row. What it refuses for the sake of one chat is that
chat's answer; what no repetition can mend (key, address, model) ends the engine at once.
"""

import asyncio
import json
import logging
import math
import os
import random
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from statistics import mean
from typing import TYPE_CHECKING, Any, Final

from lorecast.config import LLMConfig
from lorecast.errors import EngineError
from lorecast.knowledge.engine import Answer, Chat

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI
    from openai.types.chat import ChatCompletion
    from openai.types.chat.chat_completion import Choice

_log = logging.getLogger(__name__)

_BUSY: Final = frozenset({408, 409, 425, 429})
"""Statuses below 500 after which the same call may succeed."""
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 20.0
_MAX_BLAMED: Final = 5
"""So often may a chat fail while others are answered."""
_REASON_CHARACTERS: Final = 300
_TOO_LONG: Final = re.compile(
    r"context.?length|context.?window|maximum model length|too (long|many tokens)|token limit",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class OpenAISettings:
    """What an engine needs to start; travels to the actor, the key does not."""

    model: str
    """The name by which the endpoint knows it."""
    llm: LLMConfig
    share: int = 1
    """Actors that share knowledge.llm.requests_per_s and .concurrency."""


class _TryAgainError(Exception):
    """One call failed in a way that may pass."""

    def __init__(self, reason: str, *, retry_after_s: float = 0.0, blames_chat: bool = False):
        super().__init__(reason)
        self.retry_after_s = retry_after_s
        self.blames_chat = blames_chat


class OpenAIEngine:
    """An Engine (see `lorecast.knowledge.engine`) over one endpoint."""

    def __init__(self, settings: OpenAISettings) -> None:
        """Reads the key, calls nothing. Raises EngineError for an address or a key of no use."""
        self._llm = llm = settings.llm
        self._model = settings.model
        if not llm.base_url.startswith(("http://", "https://")):
            raise EngineError(
                f"knowledge.llm.base_url: {llm.base_url!r} is no address; give one such as "
                "http://127.0.0.1:8000/v1"
            )
        self._key = os.environ.get(llm.api_key_env, "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise EngineError(
                f"the key in the environment variable {llm.api_key_env} (knowledge.llm.api_key_env)"
                " has characters that no key has; copy it anew"
            )
        self._concurrency = max(1, llm.concurrency // settings.share)
        self._interval_s = settings.share / llm.requests_per_s if llm.requests_per_s else 0.0
        self._next_call_s = 0.0
        self._answered_s = -math.inf
        self.retries: Counter[str] = Counter()
        """Calls that were repeated, by what had gone wrong."""

    def chat(
        self, batch: Sequence[Chat], schemas: Sequence[str | None] | None = None
    ) -> list[Answer]:
        """See Engine. Raises EngineError if the endpoint refuses key or model, or is busy or down
        for longer than knowledge.llm.retry_s.
        """
        return asyncio.run(self._chat(batch, schemas or [None] * len(batch)))

    async def _chat(self, batch: Sequence[Chat], schemas: Sequence[str | None]) -> list[Answer]:
        from openai import AsyncOpenAI

        repeated = self.retries.total()
        slots = asyncio.Semaphore(self._concurrency)
        # Without a key of ours the library would send the one in OPENAI_API_KEY to any address.
        async with AsyncOpenAI(
            base_url=self._llm.base_url, api_key=self._key or "none", max_retries=0, timeout=None
        ) as client:

            async def answer(chat: Chat, schema: str | None) -> Answer:
                async with slots:
                    return await self._insist(client, chat, schema)

            try:
                async with asyncio.TaskGroup() as group:
                    asked = [
                        group.create_task(answer(*one)) for one in zip(batch, schemas, strict=True)
                    ]
            except ExceptionGroup as errors:
                raise errors.exceptions[0] from None
        if repeated := self.retries.total() - repeated:
            _log.info("%s: %d calls for %d chats were repeated", self._url, repeated, len(batch))
        return [task.result() for task in asked]

    async def _insist(self, client: "AsyncOpenAI", chat: Chat, schema: str | None) -> Answer:
        """Calls until there is an answer, or no hope of one."""
        first_failed_s = math.inf
        blamed = 0
        for backoff_s in _backoffs_s():
            await self._pace()
            started_s = time.monotonic()
            try:
                return await self._call(client, chat, schema)
            except _TryAgainError as failure:
                failed_s = time.monotonic()
                first_failed_s = min(first_failed_s, failed_s)
                left_s = first_failed_s + self._llm.retry_s - failed_s
                wait_s = max(failure.retry_after_s, min(backoff_s, left_s))
                blamed += failure.blames_chat and self._answered_s > started_s
                if blamed == _MAX_BLAMED:
                    return _failed(f"{failure}, {blamed} times while other chats were answered")
                if left_s <= 0 or wait_s > left_s:
                    if self._answered_s > first_failed_s:
                        return _failed(f"{failure}, for {self._llm.retry_s:,g} s")
                    raise EngineError(
                        f"{self._url} did not answer for {self._llm.retry_s:,g} s ({failure}); "
                        "start it or mend knowledge.llm.base_url, then run again: all finished "
                        "blocks are stored. knowledge.llm.retry_s says how long to wait for it"
                    ) from None
                self._note(failure)
                await asyncio.sleep(wait_s)
        raise AssertionError("backoffs never end")

    async def _pace(self) -> None:
        now_s = time.monotonic()
        call_s = max(now_s, self._next_call_s)
        self._next_call_s = call_s + self._interval_s
        await asyncio.sleep(call_s - now_s)

    async def _call(self, client: "AsyncOpenAI", chat: Chat, schema: str | None) -> Answer:
        """One call. Raises _TryAgainError or, for what no repetition mends, EngineError."""
        import openai
        from openai.types.chat import ChatCompletion

        llm = self._llm
        options: dict[str, Any] = {"messages": list(chat)}
        if llm.temperature > 0:
            options["seed"] = llm.seed
        if llm.certainty:
            options["logprobs"] = True
        if schema is not None:
            form = {"name": "answer", "schema": json.loads(schema), "strict": True}
            options["response_format"] = {"type": "json_schema", "json_schema": form}
        try:
            async with asyncio.timeout(llm.timeout_s):
                completion = await client.chat.completions.create(
                    model=self._model,
                    temperature=llm.temperature,
                    top_p=llm.top_p,
                    max_tokens=llm.max_tokens,
                    **options,
                )
        except openai.APIStatusError as error:
            return self._refusal(error)
        except (TimeoutError, openai.APITimeoutError):
            reason = f"no answer within {llm.timeout_s:,g} s"
            raise _TryAgainError(reason, blames_chat=True) from None
        except openai.APIConnectionError as error:
            raise _TryAgainError(f"no connection: {self._clean(error.__cause__)}") from None
        except (json.JSONDecodeError, UnicodeDecodeError, openai.APIResponseValidationError):
            raise _TryAgainError("an answer that is not JSON", blames_chat=True) from None
        if not isinstance(completion, ChatCompletion):
            raise EngineError(
                f"{self._url} is no OpenAI-compatible API: it answers with "
                f"{self._clean(completion)!r}; mend knowledge.llm.base_url (most end in /v1)"
            )
        self._answered_s = time.monotonic()
        return _answer(completion)

    def _refusal(self, error: "APIStatusError") -> Answer:
        """What a status means for this chat, if it does not speak of the endpoint as a whole."""
        status, llm = error.status_code, self._llm
        body = error.body if isinstance(error.body, dict) else {}
        reason = f"status {status}: {self._clean(body.get('message') or error.response.text)}"
        has_answered = self._answered_s > -math.inf
        if status == 401 or (status == 403 and not has_answered):
            state = "is refused" if self._key else "is not set"
            raise EngineError(
                f"{self._url} wants another key: the environment variable {llm.api_key_env} "
                f"{state} ({reason}); set it where the engines run, or name another one in "
                "knowledge.llm.api_key_env"
            ) from None
        if status == 404 and not has_answered:
            raise EngineError(
                f"{self._url} does not serve {self._model!r} ({reason}); mend knowledge.llm.model "
                "or knowledge.llm.base_url (most end in /v1)"
            ) from None
        if error.code == "insufficient_quota":
            raise EngineError(
                f"{self._url}: the account has no quota left ({reason}); add some and run again: "
                "all finished blocks are stored"
            ) from None
        if status in _BUSY or status >= 500:
            raise _TryAgainError(
                reason,
                retry_after_s=_retry_after_s(error.response.headers),
                blames_chat=status == 500,
            ) from None
        if error.code == "context_length_exceeded" or _TOO_LONG.search(reason):
            return Answer(finish="too_long", error=reason)
        return _failed(reason)

    def _note(self, failure: _TryAgainError) -> None:
        if not self.retries:
            _log.warning(
                "%s: %s; such calls are repeated for up to %g s",
                self._url,
                failure,
                self._llm.retry_s,
            )
        kind, _, _ = str(failure).partition(":")
        self.retries[kind] += 1

    @property
    def _url(self) -> str:
        return self._llm.base_url

    def _clean(self, reason: object) -> str:
        """One short line without the key, which some endpoints repeat."""
        text = " ".join(str(reason).split())
        return (text.replace(self._key, "***") if self._key else text)[:_REASON_CHARACTERS]


def _answer(completion: "ChatCompletion") -> Answer:
    if not getattr(completion, "choices", None):  # as some endpoints tell of errors
        return _failed("an answer without a choice")
    choice, usage = completion.choices[0], completion.usage
    if choice.finish_reason == "content_filter":
        return _failed("withheld by the endpoint's content filter")
    return Answer(
        text=(choice.message.content or choice.message.refusal or "").strip(),
        finish="length" if choice.finish_reason == "length" else "stop",
        prompt_tokens=usage.prompt_tokens if usage else 0,
        output_tokens=usage.completion_tokens if usage else 0,
        certainty=_certainty(choice),
    )


def _certainty(choice: "Choice") -> float | None:
    """See Answer; not every endpoint gives log-probabilities."""
    if choice.logprobs is None or not choice.logprobs.content:
        return None
    return mean(token.logprob for token in choice.logprobs.content)


def _failed(reason: str) -> Answer:
    return Answer(finish="error", error=reason)


def _backoffs_s() -> Iterator[float]:
    """Ever longer waits, spread so that calls which failed together do not return together."""
    wait_s = _FIRST_WAIT_S
    while True:
        yield wait_s * random.uniform(0.5, 1.0)  # noqa: S311
        wait_s = min(2 * wait_s, _LONGEST_WAIT_S)


def _retry_after_s(headers: Mapping[str, str]) -> float:
    """The wait that an endpoint asks for, as seconds or as a date; 0 if it asks for none."""
    wanted = headers.get("retry-after", "")
    try:
        return max(0.0, float(wanted))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(wanted).timestamp() - time.time())
    except ValueError:
        return 0.0
