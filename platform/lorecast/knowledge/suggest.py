"""A first factor set for a scenario: a language model names what matters there.

The chat asks for factors of items and users as one JSON object; a usable answer becomes a folder
of one's own: factors.yaml, to be looked over, and the templates of the shipped set that is closest.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from lorecast.errors import InputError, KnowledgeError
from lorecast.knowledge.factors import (
    Factor,
    FactorSet,
    Message,
    load_factor_set,
    shipped_factor_sets,
)

MIN_FACTORS: Final = 3
"""A side with fewer is no answer."""
MAX_FACTORS: Final = 10
"""Asked for; more are taken as they come."""
NEUTRAL: Final = "products"
"""The shipped set whose wording suits any field."""
_SHOWN: Final = 300
"""Characters of an unusable answer that its error shows."""


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """Factors of both sides, and the shipped set whose templates suit them."""

    item: tuple[Factor, ...]
    user: tuple[Factor, ...]
    closest: str


def suggestion_messages(scenario: str) -> list[Message]:
    """The chat that asks which factors matter in a scenario, described in a few words.

    Raises InputError if the description is blank.
    """
    if not scenario.strip():
        raise InputError("the scenario is blank: say in a few words what is recommended to whom")
    prompt = (
        f"Scenario: {' '.join(scenario.split())}\n\n"
        "In this scenario a recommender has to foresee which users will like which items. Name the "
        "factors that matter most for it:\n"
        f'- "item": six to {MAX_FACTORS} aspects in which the items differ and which decide who '
        "likes them. Ask for what a knowledgeable person can tell from an item's title and basic "
        "facts.\n"
        f'- "user": six to {MAX_FACTORS} aspects of taste, need or situation which can be read off '
        "the items that a user liked and disliked. Where it fits, mirror an aspect of the items "
        "under the same name.\n"
        "Each factor has a name (one or two English words, lower case, joined by _) and one short "
        "question that ends with a question mark. Call item and user by what they are in the "
        "scenario (the recipe, the cook). No two factors may overlap.\n"
        f'Say also under "closest" which of these fields is nearest to the scenario: '
        f"{', '.join(_fields())} ({NEUTRAL} if none is near).\n\n"
        "Answer with one JSON object of this form and nothing else:\n"
        '{"item": [{"name": "...", "question": "..."}], '
        '"user": [{"name": "...", "question": "..."}], "closest": "..."}'
    )
    return [{"role": "user", "content": prompt}]


def suggestion_schema() -> str:
    """The JSON schema of the answer."""
    text = {"type": "string"}
    factor = _closed_object({"name": text, "question": text})
    factors = {
        "type": "array",
        "items": factor,
        "minItems": MIN_FACTORS,
        "maxItems": MAX_FACTORS,
    }
    closest = {"type": "string", "enum": _fields()}
    return json.dumps(_closed_object({"item": factors, "user": factors, "closest": closest}))


def parse_suggestion(answer: str) -> Suggestion:
    """Reads a model's answer; words around the JSON object do not matter.

    Names become lower case with underscores. A field that is not shipped stands for `NEUTRAL`.
    Raises KnowledgeError, showing the answer's beginning, if it cannot be used.
    """
    found = next(_objects_of(answer), None)
    if found is None:
        raise _unusable(answer, "it holds no JSON object with the keys 'item' and 'user'")
    try:
        item, user = _factors("item", found["item"]), _factors("user", found["user"])
    except ValueError as error:
        raise _unusable(answer, str(error)) from None
    closest = found.get("closest")
    return Suggestion(item=item, user=user, closest=closest if closest in _fields() else NEUTRAL)


def check_new_folder(folder: Path) -> None:
    """Raises InputError if a factor set cannot be written to `folder` as a new one."""
    if str(folder) in shipped_factor_sets():
        raise InputError(
            f"{str(folder)!r} is the name of a shipped factor set, which would hide the folder: "
            "choose another"
        )
    if folder.exists():
        raise InputError(f"{folder} exists already: name another folder")


def write_factor_set(folder: Path, scenario: str, suggestion: Suggestion) -> FactorSet:
    """Writes a new folder with factors.yaml and templates, and loads it.

    Raises InputError if the folder exists or cannot be written.
    """
    check_new_folder(folder)
    files = {f"{r}.j2": text for r, text in load_factor_set(suggestion.closest).templates.items()}
    files["factors.yaml"] = _factors_file(scenario, suggestion)
    try:
        folder.mkdir(parents=True)
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror})") from None
    return load_factor_set(folder)


def _fields() -> list[str]:
    """Shipped sets whose templates suit general models; the world's suit only its own."""
    return [name for name in shipped_factor_sets() if name != "world"]


def _closed_object(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _objects_of(answer: str) -> Iterator[dict[str, Any]]:
    """The JSON objects in a text that look like a suggestion."""
    decoder = json.JSONDecoder()
    for brace in re.finditer(r"\{", answer):
        try:
            found, _ = decoder.raw_decode(answer, brace.start())
        except (ValueError, RecursionError):
            continue
        if {"item", "user"} <= found.keys():
            yield found


def _factors(side: str, listed: object) -> tuple[Factor, ...]:
    """Raises ValueError with what is wrong."""
    if not isinstance(listed, list) or len(listed) < MIN_FACTORS:
        raise ValueError(f"{side!r} must list at least {MIN_FACTORS} factors")
    factors: dict[str, Factor] = {}
    for entry in listed:
        given = entry if isinstance(entry, dict) else {}
        name = re.sub(r"\W+", "_", _text(given.get("name")).lower()).strip("_")
        question = _text(given.get("question"))
        if not name or not question:
            raise ValueError(f"a factor of {side!r} lacks a name or a question")
        if name in factors:
            raise ValueError(f"{side!r} names {name!r} twice")
        factors[name] = Factor(name=name, question=question)
    return tuple(factors.values())


def _text(value: object) -> str:
    return " ".join(value.split()) if isinstance(value, str) else ""


def _unusable(answer: str, reason: str) -> KnowledgeError:
    shown = " ".join(answer.split())
    if len(shown) > _SHOWN:
        shown = f"{shown[:_SHOWN]}…"
    return KnowledgeError(
        f"the language model's suggestion cannot be used: {reason}. It begins: {shown!r}. Ask "
        "again with another wording, or a larger instruction-tuned model (knowledge.llm.model)"
    )


def _factors_file(scenario: str, suggestion: Suggestion) -> str:
    questions = {
        side: {factor.name: factor.question for factor in factors}
        for side, factors in (("item", suggestion.item), ("user", suggestion.user))
    }
    header = (
        f"# Factors for: {' '.join(scenario.split())}\n"
        "# Suggested by a language model: look them over, reword, remove, add.\n"
        "# Each factor is asked about every item or user, so each one costs calls and tokens.\n"
        f"# The templates beside (*.j2) are those of the shipped set {suggestion.closest!r}: let "
        "them call\n# items and users by their names here, with {{ factor.question }} last.\n"
    )
    return header + yaml.safe_dump(questions, sort_keys=False, allow_unicode=True, width=1000)
