"""Factor sets: what is asked about items and users, and how the question is put.

A language model answers one narrow question better than a broad one, so a scene is cut into
*factors* (director, mood, theme …) and each is asked on its own (factorization prompting, REKI).
A factor set is a folder:

    factors.yaml     item: {name: question, …}  and  user: {name: question, …}, in order
    item.j2          the prompt of an item: sees `item` (its text columns) and `factor`
    user.j2          the prompt of a user: sees `user` (profile), `history` ({title, rating}, oldest
                     first), `liked` and `disliked` (titles of the history), and `factor`
    system.j2        optional: a system message; sees `factor`
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, Final, Literal, TypedDict

import yaml
from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from lorecast.errors import InputError, KnowledgeError

Side = Literal["user", "item"]

VARIABLES: Final[Mapping[str, frozenset[str]]] = {
    "item": frozenset({"item", "factor"}),
    "user": frozenset({"user", "history", "liked", "disliked", "factor"}),
    "system": frozenset({"factor"}),
}
"""What each template may use."""


class Message(TypedDict):
    """One message of a chat, in the form every chat API takes."""

    role: str
    content: str


@dataclass(frozen=True, kw_only=True)
class Factor:
    """One aspect that is asked for; `name` is its column-like name, `question` its wording."""

    name: str
    question: str


@dataclass(frozen=True, kw_only=True)
class FactorSet:
    """The factors of both sides and the templates that ask for them."""

    name: str
    item: tuple[Factor, ...]
    user: tuple[Factor, ...]
    templates: Mapping[str, str]
    """Template texts by role: item, user and, if there is one, system."""

    @cached_property
    def digest(self) -> str:
        """Digest of all that shapes a prompt: names, questions, order and templates."""
        content = {
            side: [(factor.name, factor.question) for factor in self.factors(side)]
            for side in ("item", "user")
        }
        text = json.dumps([content, dict(self.templates)], sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def factors(self, side: Side) -> tuple[Factor, ...]:
        """The factors of one side, in the order of the file."""
        return self.item if side == "item" else self.user

    def messages(self, side: Side, factor_name: str, variables: Mapping[str, Any]) -> list[Message]:
        """The chat that asks for one factor of one entity.

        `variables` are the template's: `item`, or `user`, `history`, `liked` and `disliked`.
        Raises KnowledgeError if the factor is unknown or the template uses what is not there.
        """
        factor = self._factors_by_name[side].get(factor_name)
        if factor is None:
            known = ", ".join(self._factors_by_name[side])
            raise KnowledgeError(
                f"factor set {self.name!r} has no {side} factor {factor_name!r}; it has: {known}"
            )
        chat: list[Message] = []
        if "system" in self._compiled:
            chat.append({"role": "system", "content": self._render("system", factor=factor)})
        prompt = self._render(side, factor=factor, **variables)
        return [*chat, {"role": "user", "content": prompt}]

    @cached_property
    def _factors_by_name(self) -> dict[str, dict[str, Factor]]:
        return {
            "item": {factor.name: factor for factor in self.item},
            "user": {factor.name: factor for factor in self.user},
        }

    @cached_property
    def _compiled(self) -> dict[str, Template]:
        return {role: _ENVIRONMENT.from_string(text) for role, text in self.templates.items()}

    def _render(self, role: str, **variables: Any) -> str:
        try:
            return self._compiled[role].render(**variables).strip()
        except TemplateError as error:
            raise KnowledgeError(
                f"template {role}.j2 of factor set {self.name!r} cannot be filled in: "
                f"{error.message}; change the template or map the missing column"
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        # Cached properties land in the instance's state, and compiled templates do not pickle.
        return {field.name: getattr(self, field.name) for field in fields(self)}


def load_factor_set(name_or_path: str | Path) -> FactorSet:
    """A shipped factor set by name, or one's own by the path of its folder.

    Raises InputError, naming file and fix, if a file is missing, is not what it should be, names a
    factor twice, or a template uses an unknown variable.
    """
    folder = _folder(name_or_path)
    factors = _read_factors(folder / "factors.yaml")
    templates = {role: _read_template(folder, role) for role in ("item", "user")}
    if (folder / "system.j2").exists():
        templates["system"] = _read_template(folder, "system")
    return FactorSet(
        name=folder.name, item=factors["item"], user=factors["user"], templates=templates
    )


def shipped_factor_sets() -> Sequence[str]:
    """The names of the factor sets that come with the package."""
    return sorted(path.name for path in _shipped().iterdir() if path.is_dir())


def _shipped() -> Path:
    return Path(str(resources.files("lorecast.knowledge"))) / "factor_sets"


def _folder(name_or_path: str | Path) -> Path:
    shipped = _shipped() / str(name_or_path)
    if str(name_or_path) in shipped_factor_sets():
        return shipped
    folder = Path(name_or_path)
    if not folder.is_dir():
        names = ", ".join(shipped_factor_sets())
        raise InputError(
            f"no factor set {str(name_or_path)!r}: give one of {names}, or the path of a folder "
            "with factors.yaml, item.j2 and user.j2"
        )
    return folder.resolve()


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(
            f"factor set {path.parent.name!r} has no {path.name}; add it beside the other files"
        ) from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error.reason}); save it as UTF-8") from None


def _read_factors(path: Path) -> dict[str, tuple[Factor, ...]]:
    try:
        content = yaml.load(_read(path), Loader=_UniqueKeyLoader)  # noqa: S506 (a SafeLoader)
    except _DuplicateKeyError as error:
        raise InputError(f"{path}: {error} stands twice; rename or remove one") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(content, dict) or set(content) != {"item", "user"}:
        raise InputError(f"{path}: must have the two keys 'item' and 'user', and no other")
    for side, questions in content.items():
        if not isinstance(questions, dict) or not questions:
            raise InputError(f"{path}: {side!r} must list factors as 'name: question'")
        for name, question in questions.items():
            if not (isinstance(name, str) and isinstance(question, str) and question.strip()):
                raise InputError(f"{path}: {side} factor {name!r} must be a name with a question")
    return {
        side: tuple(
            Factor(name=name, question=question.strip()) for name, question in questions.items()
        )
        for side, questions in content.items()
    }


def _read_template(folder: Path, role: str) -> str:
    path = folder / f"{role}.j2"
    text = _read(path)
    try:
        used = meta.find_undeclared_variables(_ENVIRONMENT.parse(text))
    except TemplateSyntaxError as error:
        raise InputError(f"{path}, line {error.lineno}: {error.message}") from None
    unknown = sorted(used - VARIABLES[role])
    if unknown:
        raise InputError(
            f"{path}: unknown variable {unknown[0]!r}; the template may use "
            f"{', '.join(sorted(VARIABLES[role]))}"
        )
    return text


class _DuplicateKeyError(Exception):
    def __str__(self) -> str:
        return f"{self.args[0]!r}"


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML's safe loader, but a key given twice is an error instead of the last one winning."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise _DuplicateKeyError(key)
        return super().construct_mapping(node, deep=deep)


_ENVIRONMENT: Final = ImmutableSandboxedEnvironment(
    undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
)
