"""A bare backbone that was trained before, for an extractor to act on (`training.backbone_from`).

It lies in the folder of a trained model or in a bundle, here or in MLflow. It must have been
trained on the very dataset: rows and codes mean the same only there, and with another split it may
have seen what is to be predicted.
"""

import json
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from lorecast.artifacts import Artifact
from lorecast.config import ModelConfig
from lorecast.data.dataset import Dataset, FeatureSchema
from lorecast.errors import ConfigError, RegistryError
from lorecast.lifecycle.bundle import Bundle
from lorecast.lifecycle.card import CARD
from lorecast.lifecycle.registry import Registry, parse_reference
from lorecast.training.recipe import Recipe

_KEY = "training.backbone_from"
_RUN = re.compile(r"runs:/([0-9A-Za-z_-]+)/model")


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A trained model, opened for its weights."""

    folder: Path
    fingerprint: str
    """Of the trained model; its bundle has the same."""
    dataset: str
    """Fingerprint of what it was trained on."""
    strategy: str
    protocol: str
    model: ModelConfig
    schema: FeatureSchema

    @classmethod
    def open(cls, folder: Path) -> "Pretrained":
        """The model in `folder`. Raises ArtifactError if there is none, and ConfigError if it is
        an output of another stage."""
        if (folder / CARD).exists():
            bundle = Bundle.open(folder)
            return cls(
                folder=folder,
                fingerprint=bundle.fingerprints["model"],
                dataset=bundle.fingerprints["dataset"],
                strategy=bundle.strategy,
                protocol="honest",  # no other is registered
                model=bundle.model,
                schema=bundle.schema,
            )
        artifact = Artifact.open(folder)
        if artifact.manifest["stage"] != "train":
            raise ConfigError(
                f"{_KEY}: {folder} is an output of `{artifact.manifest['stage']}`; name a folder "
                "below `train` in the workspace, or a bundle"
            )
        card = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        return cls(
            folder=folder,
            fingerprint=artifact.fingerprint,
            dataset=artifact.manifest["inputs"]["dataset"],
            strategy=card["strategy"],
            protocol=artifact.facts.get("protocol", "honest"),
            model=ModelConfig.model_validate(card["config"]),
            schema=FeatureSchema.from_dict(card["schema"]),
        )

    def check(self, recipe: Recipe, dataset: Dataset) -> None:
        """Raises ConfigError, which says what differs, unless `recipe` can build on the model."""
        named = f"{_KEY}: the model in {recipe.training.backbone_from}"
        if self.strategy != "base":
            raise ConfigError(
                f"{named} is of strategy {self.strategy!r}, whose backbone relies on an extractor; "
                "name one of strategy 'base'"
            )
        if self.protocol != recipe.protocol:
            raise ConfigError(f"{named} is of another training.protocol: {self.protocol}")
        ours = recipe.base
        if self.model.backbone != ours.model.backbone:
            raise ConfigError(
                f"{named} is {self.model.backbone}, and model.backbone is {ours.model.backbone}; "
                "make them the same"
            )
        theirs = replace(ours, model=self.model).identity()["model"]
        for key, value in ours.identity()["model"].items():
            if theirs.get(key) != value:
                raise ConfigError(
                    f"{named} has model.{key} {theirs.get(key)!r}, and here it is {value!r}; make "
                    "them the same"
                )
        if self.dataset != dataset.fingerprint:
            raise ConfigError(
                f"{named} was trained on another dataset: {self._difference(dataset)}; train one "
                "on this dataset (training.strategies=[base])"
            )

    def _difference(self, dataset: Dataset) -> str:
        theirs, ours = asdict(self.schema), asdict(dataset.schema)
        different = [
            f"{name} is {theirs[name]!r} there, and {ours[name]!r} here"
            for name in ours
            if theirs[name] != ours[name]
        ]
        return "; ".join(different) or "its features are the same, its rows or its split are not"


def fetch(reference: str, registry: Registry, downloads: Path) -> Path:
    """The folder that `reference` names: itself, or the copy below `downloads` of what MLflow has.

    Raises RegistryError if the registry does not have it.
    """
    if not reference.startswith(("models:/", "runs:/")):
        return Path(reference)
    downloads.mkdir(parents=True, exist_ok=True)
    if reference.startswith("models:/"):
        version = registry.resolve(*parse_reference(reference))
        folder = downloads / version.run_id
        if not folder.exists():
            registry.download(version, folder)
        return folder
    run = _RUN.fullmatch(reference)
    if run is None:
        raise RegistryError(f"{reference!r} names no run's model: write runs:/RUN_ID/model")
    folder = downloads / run[1]
    if not folder.exists():
        registry.download_run(run[1], folder)
    return folder
