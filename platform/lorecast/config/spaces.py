"""Search spaces: where a value of the experiment file is to be found by `lorecast tune`.

A space stands where the value would, e.g. `training.learning_rate: {loguniform: [1e-4, 1e-2]}`:

    uniform: [LOW, HIGH]       a number
    loguniform: [LOW, HIGH]    a number, evenly by its logarithm
    int: [LOW, HIGH]           a whole number, both ends included
    choice: [A, B, ...]        one of these, of any type

Trials share a dataset, its texts and their vectors, and are compared on the same validation rows.
So spaces stand in the sections `model` and `training` alone, and not on what says which models are
compared, for how long, or where they come from.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args, get_origin

from pydantic import BaseModel

from lorecast.config.schema import ExperimentConfig
from lorecast.config.section import EXECUTION
from lorecast.errors import ConfigError

Kind = Literal["uniform", "loguniform", "int", "choice"]
KINDS: Final[Sequence[Kind]] = get_args(Kind)

_SEARCHED: Final = ("model", "training")
_GIVEN: Final = ("training.strategies", "training.seeds", "training.epochs", "training.protocol")


@dataclass(frozen=True)
class Space:
    """The values that a key may take."""

    key: str
    """Dotted."""
    kind: Kind
    values: tuple[Any, ...]
    """The options of a choice; otherwise the two ends."""

    @classmethod
    def parse(cls, key: str, kind: Kind, values: Any) -> "Space":
        """Raises ConfigError if this is no space, naming the key."""
        if kind == "choice":
            if not isinstance(values, list) or len(values) < 2:
                raise ConfigError(f"{key}: choice takes a list of two or more (got {values!r})")
            if any(value in values[:place] for place, value in enumerate(values)):
                raise ConfigError(f"{key}: choice has a value twice (got {values!r})")
            return cls(key, kind, tuple(values))
        number = _whole if kind == "int" else float  # YAML reads 1e-4 as text
        try:
            low, high = map(number, values)
        except (TypeError, ValueError):
            what = "whole numbers" if kind == "int" else "numbers"
            raise ConfigError(
                f"{key}: {kind} takes [LOW, HIGH], two {what} (got {values!r})"
            ) from None
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ConfigError(f"{key}: {kind} takes [LOW, HIGH] with LOW < HIGH (got {values!r})")
        if kind == "loguniform" and low <= 0:
            raise ConfigError(f"{key}: loguniform takes ends above 0 (got {values!r})")
        return cls(key, kind, (low, high))

    def as_document(self) -> dict[str, list[Any]]:
        """As it is written in the experiment file."""
        return {self.kind: list(self.values)}


def find_spaces(document: Mapping[str, Any]) -> dict[str, Space]:
    """All spaces of an experiment, by key, in order. Raises ConfigError for one that is none."""
    return {space.key: space for space in _find(document, (), (ExperimentConfig,))}


def check_searchable(space: Space) -> None:
    """Raises ConfigError for a space on a key that is not searched."""
    section, *rest = space.key.split(".")
    if section not in _SEARCHED or not rest:
        raise ConfigError(
            f"{space.key} cannot be searched: trials share the dataset, its texts and vectors, and "
            "the machines, so spaces stand in the sections model and training alone; "
            "`lorecast evaluate --arm` compares other settings"
        )
    field = ExperimentConfig.model_fields[section]
    for name in rest:
        sections = [s for s in sections_in(field.annotation) if name in s.model_fields]
        if not sections:
            return  # an unknown key, on which validation has more to say
        field = sections[0].model_fields[name]
    if space.key in _GIVEN or EXECUTION in field.metadata:
        raise ConfigError(
            f"{space.key} cannot be searched: it says which models are compared, for how long or "
            "where they come from; give one value"
        )


def sections_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The sections inside an annotation such as `A | None` or `tuple[A | B, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from sections_in(argument)


def _find(
    node: Any, path: tuple[str, ...], sections: tuple[type[BaseModel], ...]
) -> Iterator[Space]:
    """`sections`: those that may stand here; none if the schema knows none."""
    if isinstance(node, list):
        for place, entry in enumerate(node):
            yield from _find(entry, (*path, str(place)), sections)
    if not isinstance(node, Mapping):
        return
    if len(node) == 1 and not any(name in s.model_fields for s in sections for name in node):
        for kind in KINDS:
            if kind in node:
                yield Space.parse(".".join(path), kind, node[kind])
                return
    for name, child in node.items():
        fields = [s.model_fields[name] for s in sections if name in s.model_fields]
        below = tuple(s for field in fields for s in sections_in(field.annotation))
        key = ".".join((*path, str(name)))
        if isinstance(child, Mapping) and fields and not below and not _maps(fields[0].annotation):
            _check_kind(key, child)
        yield from _find(child, (*path, str(name)), below)


def _check_kind(key: str, node: Mapping[str, Any]) -> None:
    """Raises ConfigError if what stands where a value should is no space either."""
    if len(node) != 1 or next(iter(node)) not in KINDS:
        found = ", ".join(map(str, node)) or "nothing"
        raise ConfigError(
            f"{key} takes one value, or a search space of one kind: {', '.join(KINDS)} "
            f"(got {found})"
        )


def _maps(annotation: Any) -> bool:
    """Whether a field's own value is a mapping."""
    return get_origin(annotation) is dict or any(_maps(each) for each in get_args(annotation))


def _whole(value: Any) -> int:
    if isinstance(value, float) and not value.is_integer():
        raise ValueError
    return int(value)
