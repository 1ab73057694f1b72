"""The seam to language models: a batch of chats in, one answer each out.

The real engine lives in `lorecast.jobs`; `ScriptedEngine` is its in-memory twin.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from lorecast.knowledge.factors import Message

Chat = Sequence[Message]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back for one chat.

    `finish`: the model ended by itself (stop), was cut at its token limit (length), was not asked
    since the prompt leaves no room for an answer (too_long), or gave none (error); the last two
    say why in `error`.
    """

    text: str = ""
    finish: Literal["stop", "length", "too_long", "error"] = "stop"
    error: str = ""
    prompt_tokens: int = 0
    output_tokens: int = 0
    certainty: float | None = None
    """Mean log-probability of the answer's tokens, where `knowledge.llm.certainty` asks for it."""


class Engine(Protocol):
    """A language model that is ready to answer."""

    def chat(
        self, batch: Sequence[Chat], schemas: Sequence[str | None] | None = None
    ) -> list[Answer]:
        """One answer per chat, in order; `schemas[i]`, a JSON schema, binds the i-th answer's form.

        A chat that cannot be answered gets an `error` answer and does not disturb the others.
        Raises EngineError only if the engine itself is broken.
        """
        ...


class ScriptedEngine:
    """Answers with a function of the last message; counts words as tokens."""

    def __init__(self, reply: Callable[[str], str | Answer]) -> None:
        self._reply = reply

    def chat(
        self,
        batch: Sequence[Chat],
        schemas: Sequence[str | None] | None = None,  # noqa: ARG002
    ) -> list[Answer]:
        return [self._answer(chat) for chat in batch]

    def _answer(self, chat: Chat) -> Answer:
        reply = self._reply(chat[-1]["content"])
        if isinstance(reply, Answer):
            return reply
        return Answer(
            text=reply,
            prompt_tokens=sum(len(message["content"].split()) for message in chat),
            output_tokens=len(reply.split()),
        )
