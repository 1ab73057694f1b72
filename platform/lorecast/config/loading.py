"""From a YAML file and `key=value` overrides to an `ExperimentConfig`."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from lorecast.config.schema import ExperimentConfig
from lorecast.config.spaces import Space, find_spaces, sections_in
from lorecast.errors import ConfigError


def load_config(path: str | Path | None = None, overrides: Iterable[str] = ()) -> ExperimentConfig:
    """The experiment in `path` (none: the embedded world) with overrides such as
    `training.seeds=[0,1,2]` applied in order.

    Raises ConfigError naming the file and the key.
    """
    document, origin = read_document(path, overrides)
    for key in spaces_of(document, origin):
        raise ConfigError(
            f"{origin}: {key} is a search space: run `lorecast tune`, or give one value"
        )
    return validated(document, origin)


def load_experiment(words: Sequence[str]) -> ExperimentConfig:
    """The experiment a command line names: `[CONFIG] [KEY=VALUE]...`."""
    return load_config(*named(words))


def dump_config(config: ExperimentConfig) -> str:
    """The whole experiment as YAML, defaults included; `load_config` reads it back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def describe_fields(model: type[BaseModel] = ExperimentConfig) -> Iterator[tuple[str, str, str]]:
    """All keys of the experiment, in order, as (dotted key, default, description).

    A key of a list's entries reads `list[kind].key`, of entries by name `entries.NAME.key`.
    """
    for name, field in model.model_fields.items():
        sections = list(sections_in(field.annotation))
        if sections != [field.annotation]:  # a value, or sections that may be absent or many
            yield name, _show_default(field), field.description or ""
        for section in sections:
            place = name if len(sections) == 1 else f"{name}[{_kind(section)}]"
            if get_origin(field.annotation) is dict:
                place += ".NAME"
            for key, default, text in describe_fields(section):
                yield f"{place}.{key}", default, text


def _kind(section: type[BaseModel]) -> str:
    return str(get_args(section.model_fields["kind"].annotation)[0])


def _show_default(field: Any) -> str:
    if field.is_required():
        return "required"
    default = field.default
    if isinstance(default, tuple):
        return str([getattr(v, "name", v) for v in default])
    return "none" if default is None else str(default)


def named(words: Sequence[str]) -> tuple[str | None, Sequence[str]]:
    """The file and the overrides among the words of a command line."""
    has_file = bool(words) and "=" not in words[0]
    return (words[0] if has_file else None), words[has_file:]


def read_document(path: str | Path | None, overrides: Iterable[str]) -> tuple[dict[str, Any], str]:
    """The document with its overrides, and what to call it."""
    document = {} if path is None else _read_yaml(Path(path))
    for override in overrides:
        _apply(document, override)
    return document, "the default experiment" if path is None else str(path)


def spaces_of(document: Mapping[str, Any], origin: str) -> dict[str, Space]:
    """As `find_spaces`; the error names the file."""
    try:
        return find_spaces(document)
    except ConfigError as error:
        raise ConfigError(f"{origin}: {error}") from None


def validated(document: Mapping[str, Any], origin: str) -> ExperimentConfig:
    """The experiment in a document. Raises ConfigError naming file and key."""
    try:
        return ExperimentConfig.model_validate(document)
    except ValidationError as error:
        raise ConfigError(f"{origin}: {_explain(error)}") from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; `lorecast init` writes one") from None
    except IsADirectoryError:
        raise ConfigError(f"{path} is a folder: name the YAML file in it") from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: not UTF-8 at byte {error.start}; save the file as UTF-8"
        ) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: expected `section:` keys, found a {type(document).__name__}")
    return document


def _apply(document: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"override {override!r}: write it as section.key=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"override {override!r}: the value is not valid YAML") from None
    *parents, leaf = key.split(".")
    node: Any = document
    for parent in parents:
        node = _child(node, parent, override)
    if isinstance(node, list):
        node[_index(node, leaf, override)] = value
    elif isinstance(node, dict):
        node[leaf] = value
    else:
        raise ConfigError(f"override {override!r}: {'.'.join(parents)} holds no keys")


def _child(node: Any, name: str, override: str) -> Any:
    if isinstance(node, list):
        return node[_index(node, name, override)]
    if not isinstance(node, dict):
        raise ConfigError(f"override {override!r}: {name!r} lies below a plain value")
    if node.get(name) is None:
        node[name] = {}
    return node[name]


def _index(node: list[Any], name: str, override: str) -> int:
    if not name.isdigit() or int(name) >= len(node):
        raise ConfigError(f"override {override!r}: {name!r} is no index below {len(node)}")
    return int(name)


def _explain(error: ValidationError) -> str:
    first, *rest = error.errors(include_url=False)
    key = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = f"unknown key{_nearest(first['loc'])}"
    elif not isinstance(first["input"], (Mapping, BaseModel)):
        message = f"{message} (got {first['input']!r})"
    more = f" (and {len(rest)} more)" if rest else ""
    return f"{key}: {message}{more}" if key else f"{message}{more}"


def _nearest(location: tuple[int | str, ...]) -> str:
    from difflib import get_close_matches

    known = [key for key, _, _ in describe_fields()]
    wanted = ".".join(str(part) for part in location)
    leaves = {key.rsplit(".", 1)[-1]: key for key in known}
    match = get_close_matches(wanted, known, 1) or [
        leaves[leaf] for leaf in get_close_matches(str(location[-1]), leaves, 1)
    ]
    return f"; did you mean {match[0]}?" if match else "; `lorecast config` lists all keys"
