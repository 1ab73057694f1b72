"""An extractor that was trained with one backbone, used with another (KSER's second reading)."""

import json
from pathlib import Path
from typing import Any

from lorecast.artifacts import Artifact
from lorecast.config import ModelConfig
from lorecast.errors import ConfigError
from lorecast.training.recipe import Recipe

_KEY = "model.extractor_from"
_SAME = ("embedding_dim", "extractor", "kser")
"""What decides the extractor and its questions, of a model's identity."""


def extractor_source(recipe: Recipe, dataset: str, vectors: str) -> Artifact:
    """The trained model that `recipe` takes its extractor from; fingerprints of its own inputs.

    Raises ArtifactError if the folder is no finished artifact, and ConfigError if the model in it
    has no extractor that fits.
    """
    assert recipe.model.extractor_from is not None
    folder = Path(recipe.model.extractor_from)
    source = Artifact.open(folder)
    if source.manifest["stage"] != "train":
        raise ConfigError(
            f"{_KEY}: {folder} is an output of `{source.manifest['stage']}`; name a folder below "
            "`train` in the workspace"
        )
    if source.facts["strategy"] != "all_parameters":
        raise ConfigError(
            f"{_KEY}: the model in {folder} is of strategy {source.facts['strategy']!r}, which has "
            "no extractor for others; name one of strategy 'all_parameters'"
        )
    for name, fingerprint in (("dataset", dataset), ("vectors", vectors)):
        if source.manifest["inputs"].get(name) != fingerprint:
            raise ConfigError(
                f"{_KEY}: the model in {folder} was trained on another {name}; an extractor serves "
                "the dataset, knowledge and encoder it was trained with"
            )
    if source.facts.get("protocol", "honest") != recipe.protocol:
        raise ConfigError(f"{_KEY}: the model in {folder} is of another training.protocol")
    card = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    config = ModelConfig.model_validate(card["config"])
    if config.extractor_from is not None:
        raise ConfigError(
            f"{_KEY}: the model in {folder} has its extractor from {config.extractor_from}; name "
            "that folder"
        )
    theirs, ours = _asked(config, recipe.model), _asked(recipe.model, recipe.model)
    if different := [name for name in _SAME if theirs[name] != ours[name]]:
        raise ConfigError(
            f"{_KEY}: model.{different[0]} is {ours[different[0]]!r} here, and "
            f"{theirs[different[0]]!r} of the model in {folder}; make them the same"
        )
    return source


def _asked(config: ModelConfig, ours: ModelConfig) -> dict[str, Any]:
    """Identity without the backbone: its code need not be here."""
    identity = config.model_copy(update={"backbone": ours.backbone}).identity()
    return {name: identity[name] for name in _SAME}
