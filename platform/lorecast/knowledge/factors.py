"""Factor sets: what is asked about items and users, and how the question is put.

A language model answers one narrow question better than a broad one, so a scene is cut into
*factors* (director, mood, theme …) and each is asked on its own (factorization prompting, REKI),
or all in one call whose answer is an object (json) or prose (text). A factor set is a folder:

    factors.yaml     item: {name: question, …}  and  user: {name: question, …}, in order
    item.j2          the prompt of an item: sees `item` (its text columns)
    user.j2          the prompt of a user: sees `user` (profile), `history` ({title, rating}, oldest
                     first), `liked` and `disliked` (titles of the history)
    item_group.j2    optional: one prompt for a group of alike items (extraction: collective) …
    user_group.j2    … or users; both see `group`: size, members (items' titles), liked and disliked
                     (users' titles), profile ({column: [(value, share), …]}, most frequent first)
    system.j2        optional: a system message before any of them

All see `factors`, those asked, `answer`, the answer's format, and, if that is "factor", `factor`,
the one asked. The filter `shares` writes a column of a group's profile: "Drama (40%), War (9%)".
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, Final, Literal, TypedDict, get_args

import yaml
from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from lorecast.errors import InputError, KnowledgeError

Side = Literal["user", "item"]
Role = Literal["user", "item", "user_group", "item_group"]
"""Whom a prompt is about: one entity or a group of alike ones."""
AnswerFormat = Literal["factor", "json", "text"]
"""One answer a factor, or one for all: an object with a text a factor, or prose."""

_ASKED: Final = frozenset({"factor", "factors", "answer"})
VARIABLES: Final[Mapping[str, frozenset[str]]] = {
    "item": _ASKED | {"item"},
    "user": _ASKED | {"user", "history", "liked", "disliked"},
    "item_group": _ASKED | {"group"},
    "user_group": _ASKED | {"group"},
    "system": _ASKED,
}
"""What each template may use."""
_SINGLE: Final[tuple[Side, ...]] = ("item", "user")


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
    """Template texts by role: item, user and, if there are such, groups and system."""

    @cached_property
    def digest(self) -> str:
        """Digest of what shapes prompts about single entities: factors, their order, templates."""
        factors = {side: _wording(self.factors(side)) for side in _SINGLE}
        single = (*_SINGLE, "system")
        templates = {role: text for role, text in self.templates.items() if role in single}
        return _digest([factors, templates])

    def role_digest(self, roles: Sequence[Role], factor_names: Sequence[str]) -> str:
        """Digest of what shapes these roles' prompts for these factors, and of nothing else.

        Raises KnowledgeError if a role's template or a factor is missing.
        """
        asked = {
            role: [self._template(role), _wording(self._find(role, factor_names))] for role in roles
        }
        return _digest([asked, self.templates.get("system")])

    def factors(self, role: Role) -> tuple[Factor, ...]:
        """The factors of one side, or of its groups, in the order of the file."""
        return self.item if role in ("item", "item_group") else self.user

    def has_role(self, role: Role) -> bool:
        """Whether there is a template for this role."""
        return role in self.templates

    def messages(self, role: Role, factor_name: str, variables: Mapping[str, Any]) -> list[Message]:
        """The chat that asks for one factor of one entity or group.

        `variables` are the template's: `item`, or `user`, `history`, `liked` and `disliked`, or
        `group`. Raises KnowledgeError if the factor or the role's template is missing, or the
        template uses what is not there.
        """
        factors = self._find(role, [factor_name])
        return self._chat(role, variables, factor=factors[0], factors=factors, answer="factor")

    def joint_messages(
        self,
        role: Role,
        factor_names: Sequence[str],
        variables: Mapping[str, Any],
        answer: Literal["json", "text"],
    ) -> list[Message]:
        """The chat that asks for all these factors at once; otherwise like `messages`.

        Raises KnowledgeError also if the template only asks one factor at a time.
        """
        return self._chat(role, variables, factors=self._find(role, factor_names), answer=answer)

    def _find(self, role: Role, names: Sequence[str]) -> list[Factor]:
        known = self._factors_by_name[role]
        for name in names:
            if name not in known:
                raise KnowledgeError(
                    f"factor set {self.name!r} has no {role} factor {name!r}; "
                    f"it has: {', '.join(known)}"
                )
        return [known[name] for name in names]

    def _template(self, role: Role) -> str:
        if role not in self.templates:
            raise KnowledgeError(
                f"factor set {self.name!r} has no {role}.j2, which extraction: collective needs; "
                "add that template, or ask with extraction: individual"
            )
        return self.templates[role]

    def _chat(self, role: Role, variables: Mapping[str, Any], **asked: Any) -> list[Message]:
        self._template(role)
        chat: list[Message] = []
        if "system" in self.templates:
            chat.append({"role": "system", "content": self._render("system", asked)})
        prompt = self._render(role, {**variables, **asked})
        return [*chat, {"role": "user", "content": prompt}]

    @cached_property
    def _factors_by_name(self) -> dict[Role, dict[str, Factor]]:
        return {
            role: {factor.name: factor for factor in self.factors(role)} for role in get_args(Role)
        }

    @cached_property
    def _compiled(self) -> dict[str, Template]:
        return {role: _ENVIRONMENT.from_string(text) for role, text in self.templates.items()}

    def _render(self, role: str, variables: Mapping[str, Any]) -> str:
        try:
            return self._compiled[role].render(variables).strip()
        except (TemplateError, TypeError, ValueError, ArithmeticError) as error:
            template = f"template {role}.j2 of factor set {self.name!r}"
            if "factor" not in variables and str(error) == "'factor' is undefined":
                raise KnowledgeError(
                    f"{template} only asks one factor at a time, and answer: "
                    f"{variables['answer']} asks all at once; let the template handle `factors`, "
                    "or ask with answer: factor"
                ) from error
            raise KnowledgeError(
                f"{template} cannot be filled in: {error}; "
                "change the template or map the missing column"
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        # Cached properties land in the instance's state, and compiled templates do not pickle.
        return {field.name: getattr(self, field.name) for field in fields(self)}


def answer_schema(factor_names: Sequence[str]) -> str:
    """The JSON schema of an answer in the format json: one text a factor, in this order."""
    schema = {
        "type": "object",
        "properties": {name: {"type": "string"} for name in factor_names},
        "required": list(factor_names),
        "additionalProperties": False,
    }
    return json.dumps(schema, ensure_ascii=False, separators=(",", ":"))


def load_factor_set(name_or_path: str | Path) -> FactorSet:
    """A shipped factor set by name, or one's own by the path of its folder.

    Raises InputError, naming file and fix, if a file is missing, is not what it should be, names a
    factor twice, or a template uses an unknown variable.
    """
    folder = _folder(name_or_path)
    factors = _read_factors(folder / "factors.yaml")
    templates = {
        role: _read_template(folder, role)
        for role in VARIABLES
        if role in _SINGLE or (folder / f"{role}.j2").exists()
    }
    return FactorSet(
        name=folder.name, item=factors["item"], user=factors["user"], templates=templates
    )


def shipped_factor_sets() -> Sequence[str]:
    """The names of the factor sets that come with the package."""
    return sorted(path.name for path in _shipped().iterdir() if path.is_dir())


def _wording(factors: Sequence[Factor]) -> list[tuple[str, str]]:
    return [(factor.name, factor.question) for factor in factors]


def _digest(content: object) -> str:
    text = json.dumps(content, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _shares(values: Sequence[tuple[object, float]], most: int = 5) -> str:
    """The filter `shares`: the first `most` values of a column with their shares."""
    return ", ".join(f"{value} ({share:.0%})" for value, share in values[:most])


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
_ENVIRONMENT.filters["shares"] = _shares
