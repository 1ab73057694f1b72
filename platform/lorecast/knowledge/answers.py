"""What an answer is worth: only `ok` texts become vectors; others are kept with their status."""

import re
from typing import Final, Literal, get_args

from lorecast.knowledge.engine import Answer

Status = Literal["ok", "empty", "truncated", "refused", "failed"]
STATUSES: Final[tuple[Status, ...]] = get_args(Status)

_REFUSAL: Final = re.compile(
    r"""\W*(?:
        (?:i['’]?m|i\ am)\ (?:very\ |so\ )?(?:sorry|unable|not\ able)
      | (?:sorry|unfortunately|apologies)\b[^.]*\bi\ (?:can(?:no|['’])t|don['’]t|am\ not|am\ unable)
      | i\ (?:can\ ?not|can['’]?t|won['’]?t|must\ decline|do\ not\ have|don['’]?t\ have)\b
      | as\ an?\ (?:ai|artificial|large\ language|language)\b
    )""",
    re.IGNORECASE | re.VERBOSE,
)
"""How refusals begin; a text that merely contains such words is none."""


def judge(answer: Answer) -> tuple[Status, str]:
    """The status of an answer and, unless it is ok, the reason in a few words."""
    if answer.finish == "error":
        return "failed", answer.error or "the engine gave no reason"
    if not answer.text.strip():
        return "empty", "no text"
    if answer.finish == "length":
        return "truncated", f"cut after {answer.output_tokens} tokens"
    if refusal := _REFUSAL.match(answer.text):
        return "refused", f"begins with {refusal.group().strip()!r}"
    return "ok", ""
