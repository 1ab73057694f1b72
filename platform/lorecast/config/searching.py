"""A search: an experiment of which some values are to be found."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from lorecast.config.loading import named, read_document, spaces_of, validated
from lorecast.config.schema import ExperimentConfig
from lorecast.config.spaces import Space, check_searchable
from lorecast.errors import ConfigError


@dataclass(frozen=True)
class Search:
    """An experiment of which some values are to be found."""

    config: ExperimentConfig
    """With the first value of each space."""
    spaces: tuple[Space, ...]
    origin: str
    """Where it was read, for errors."""
    _document: Mapping[str, Any]

    def experiment(self, values: Mapping[str, Any]) -> ExperimentConfig:
        """The experiment with these values, by key. Raises ConfigError if it is none."""
        return validated(_with(self._document, values), self.origin)


def load_search(words: Sequence[str]) -> Search:
    """As `load_experiment`, for an experiment with search spaces (`spaces`).

    Raises ConfigError if there is none, or one holds a value that its key does not take.
    """
    document, origin = read_document(*named(words))
    spaces = tuple(spaces_of(document, origin).values())
    if not spaces:
        raise ConfigError(
            f"{origin}: nothing to search: put a space in a value's place, e.g. "
            "training.learning_rate: {loguniform: [1e-4, 1e-2]}"
        )
    firsts = {space.key: space.values[0] for space in spaces}
    for space in spaces:
        try:
            check_searchable(space)
        except ConfigError as error:
            raise ConfigError(f"{origin}: {error}") from None
        for value in space.values:
            _check_value(_with(document, {**firsts, space.key: value}), space.key, origin)
    config = validated(_with(document, firsts), origin)
    _check_search(config, origin)
    return Search(config, spaces, origin, document)


def _with(document: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The document with these values, by key, in the place of what is there."""
    changed = deepcopy(dict(document))
    for key, value in values.items():
        *parents, leaf = key.split(".")
        node: Any = changed
        for parent in parents:
            if node.get(parent) is None:
                node[parent] = {}
            node = node[parent]
        node[leaf] = value
    return changed


def _check_value(document: Mapping[str, Any], key: str, origin: str) -> None:
    """Raises ConfigError if the key does not take the value that it has in this document. What
    fits only beside other values is for `Search.experiment` to find out."""
    try:
        ExperimentConfig.model_validate(document)
    except ValidationError as error:
        for found in error.errors(include_url=False):
            place = ".".join(map(str, found["loc"]))
            is_known = found["type"] != "extra_forbidden"  # else `validated` names the nearest
            if is_known and (place == key or place.startswith(f"{key}.")):
                message = found["msg"].removeprefix("Value error, ")
                raise ConfigError(
                    f"{origin}: {place}: {message} (got {found['input']!r} in its search space)"
                ) from None


def _check_search(config: ExperimentConfig, origin: str) -> None:
    if config.sella is not None:
        raise ConfigError(
            f"{origin}: a section `sella` is not searched: `lorecast tune` searches click models"
        )
    if config.training.protocol == "kar":
        raise ConfigError(
            f"{origin}: training.protocol is 'kar', and the validation rows, which decide a "
            "search, would be trained on: take training.protocol=honest"
        )
    if config.tune.grace > config.training.epochs:
        raise ConfigError(
            f"{origin}: tune.grace is {config.tune.grace}, more than training.epochs "
            f"({config.training.epochs}): no trial could be stopped"
        )
