"""What an answer is worth: only `ok` texts become vectors; others are kept with their status."""

import json
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal, get_args

from lorecast.errors import ConfigError
from lorecast.knowledge.engine import Answer

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

Status = Literal[
    "ok", "empty", "truncated", "refused", "unparsable", "wrong_language", "too_long", "failed"
]
STATUSES: Final[tuple[Status, ...]] = get_args(Status)
RETRIED: Final[frozenset[Status]] = frozenset({"failed", "too_long"})
"""No answer came: the next run asks again."""

_FENCED: Final = re.compile(r"\s*```\w*\s*(.*?)\s*```\s*", re.DOTALL)
_MIN_BYTES: Final = 60
"""Shorter texts, often mere names, do not show their language (20 Chinese characters do)."""
_MAX_CHARACTERS: Final = 500
"""Of a text, enough to tell its language; more would only cost time."""
_MIN_CONFIDENCE: Final = 0.9

# Case tells "I can't say" from the film "I Can't Sleep".
_REFUSAL: Final = re.compile(
    r"""\W*
    (?: (?:[Ss]orry|[Uu]nfortunately|(?:[Mm]y\ )?[Aa]pologies|[Hh]owever|[Oo]h)\W+(?:but\ )?
      | (?:[Ww]ithout|[Bb]ased\ on|[Gg]iven)\ [^.]{1,80}?,\ )?
    (?:
        [Ii](?:['’]?m|\ am)\ (?:very\ |so\ |really\ |truly\ |terribly\ |deeply\ )?
          (?: sorry | unable | not\ (?:able|allowed|aware|comfortable|familiar|permitted|sure)
            | unaware | unfamiliar | afraid\ (?:that\ )?(?:I|there|this|your)
            | (?:only\ |just\ )?an?\ (?:AI|chatbot|(?:large\ )?language\ model) )\b
      | [Ii]\ (?:must\ |do\ |sincerely\ )?(?:apologi[sz]e|regret)\b
      | [Ii]\ (?:(?:must|have\ to)\ (?:respectfully\ |politely\ )?)?decline\b
      | [Ii]['’]d\ (?:rather|prefer)\ not\b
      | [Ii]\ (?:simply\ |really\ |currently\ )?(?:can\ ?not|can['’]?t|could\ not|couldn['’]t)\b
          (?!\ (?:get\ enough|wait|help\ but|stop|resist|imagine|[^.]*\benough\b))
      | [Ii]\ (?:will\ not|won['’]?t)\ (?:be\ able|answer|assist|comply|continue|create|engage
          | generate|help|provide|write)\b
      | [Ii]\ (?:actually\ |currently\ |really\ )?(?:do\ not|don['’]?t)\ (?:actually\ |currently\ )?
          (?:feel\ comfortable|have|know|possess|recogni[sz]e)\b
      | [Ii]\ have\ no\ (?:access|data|details|idea|information|knowledge|record|way)\b
      | [Aa]s\ an?\ (?:AI|ai|artificial\ intelligence|chatbot|(?:large\ )?language\ model)\b
          [^.]{0,40}?\b(?:I|i|my)\b
      | [Ii]t(?:['’]s|\ is|\ would\ be)\ (?:impossible|inappropriate|not\ (?:appropriate|possible))
          \ for\ me\b
      | [Tt]here\ (?:is|['’]s|isn['’]t|is\ not)\ (?:any|enough|insufficient|no|not\ enough)[ ]
          (?:context|data|details|information)\b
      | (?:[Nn]o|[Nn]ot\ enough|[Ii]nsufficient)\ (?:context|data|information)\b
          [^.]*\b(?:available|given|known|provided|to\ (?:answer|determine|say|tell))\b
      | (?:[Tt]his|[Yy]our)\ (?:prompt|question|request)\ (?:can\ ?not\ be|goes\ against|violates)\b
      | (?:非常|很)?(?:抱歉|对不起|遗憾) | (?:作为|我是)(?:一[个名])?(?:AI|人工智能|语言模型)
      | 我(?:无法|不能) | Es\ tut\ mir\ leid | Leider\ kann\ ich | (?:Je\ suis\ )?[Dd]ésolée?\b
      | Je\ ne\ (?:peux|sais)\ pas | Lo\ siento\b | No\ puedo\b
    )
    | \W*(?:[Ss]orry|[Uu]nfortunately|[Aa]pologies|[Ii]\ appreciate)\b[^.]*\b[Ii][ ]
      (?:can(?:not|['’]t)|don['’]t|do\ not|am\ not|am\ unable|was\ unable|could(?:\ not|n['’]t))\b
    """,
    re.VERBOSE,
)
"""How refusals begin; a text that merely contains such words is none."""


def judge(
    answer: Answer, *, schema: str | None = None, language: str | None = None
) -> tuple[Status, str]:
    """The status of an answer and, unless it is ok, the reason in a few words.

    `schema`, a JSON schema: the answer must be an object with exactly its required keys, all of
    them texts. `language`, as `check_language` takes it: texts long enough to tell must be in it.
    """
    if answer.finish == "error":
        return "failed", answer.error or "the engine gave no reason"
    if answer.finish == "too_long":
        return "too_long", answer.error or "the prompt leaves no room for an answer"
    if not answer.text.strip():
        return "empty", "no text"
    if answer.finish == "length":
        return "truncated", f"cut after {answer.output_tokens} tokens"
    if refusal := _REFUSAL.match(answer.text):
        return "refused", f"begins with {refusal.group().strip()!r}"
    texts = [answer.text]
    if schema is not None:
        values = parse_json_answer(answer.text)
        if values is None:
            return "unparsable", f"not an object of texts, begins with {answer.text.strip()[:40]!r}"
        if values.keys() != (wanted := _required(schema)):
            wrong = sorted(values.keys() ^ wanted)[0]
            return "unparsable", f"{'lacks' if wrong in wanted else 'adds'} the key {wrong!r}"
        for name, value in values.items():
            if not value.strip():
                return "unparsable", f"nothing under the key {name!r}"
            if refusal := _REFUSAL.match(value):
                return "refused", f"{name!r} begins with {refusal.group().strip()!r}"
        texts = list(values.values())
    if language is not None and (other := _other_language(" ".join(texts), language)):
        return "wrong_language", f"written in {other!r}"
    return "ok", ""


def parse_json_answer(text: str) -> dict[str, str] | None:
    """The JSON object of texts that an answer is, perhaps in a code fence; None for others."""
    if fenced := _FENCED.fullmatch(text):
        text = fenced.group(1)
    try:
        values = json.loads(text)
    except ValueError:
        return None
    if not isinstance(values, dict) or not all(isinstance(v, str) for v in values.values()):
        return None
    return values


def check_language(language: str) -> None:
    """Raises ConfigError if texts of this language (an ISO 639-1 code) cannot be told."""
    if language not in _identifier().labels:
        raise ConfigError(
            f"knowledge.llm.language: {language!r} is no language that can be told; give an ISO "
            "639-1 code such as en, de or zh, or null"
        )


@lru_cache(maxsize=64)
def _required(schema: str) -> frozenset[str]:
    return frozenset(json.loads(schema)["required"])


def _other_language(text: str, language: str) -> str | None:
    """The language that a text is surely written in, if that is not the wanted one."""
    if len(text.encode()) < _MIN_BYTES:
        return None
    found, confidence = _identifier().classify(text[:_MAX_CHARACTERS])
    return found if found != language and confidence >= _MIN_CONFIDENCE else None


@lru_cache(maxsize=1)
def _identifier() -> "LanguageIdentifier":
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    # Without the small languages with three letters, for which lists of names are often taken.
    identifier.set_languages([code for code in identifier.labels if len(code) == 2])
    return identifier
