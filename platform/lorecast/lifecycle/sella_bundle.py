"""The bundle of a language model that recommends; see `card` for all kinds, `sella.saved` for the
model's own files.

    bundle.json                     written last: what every bundle says, and the method
    sella.json, adapter_*, guide.safetensors
    items.parquet, users.parquet    ids and titles; ids and recent histories; line i is row i + 1
    check.json                      see `check_rows`
    llm/                            the language model, unless it is larger than was allowed

Without `llm/` the model is read where it lay in training. Its digest must be the same there, and so
it must in a folder `llm` that somebody puts in later. One of the hub is known by name and revision.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Self

import torch

from lorecast.artifacts import Artifact
from lorecast.data.dataset import Dataset
from lorecast.errors import ArtifactError, EngineError, TrainingError
from lorecast.knowledge.language_model import find_language_model
from lorecast.lifecycle.card import BundleCard, Kind, common_card, seal
from lorecast.lifecycle.check_rows import write_check_rows
from lorecast.sella import saved
from lorecast.sella.language import ADAPTER
from lorecast.sella.yes_no import YesNoModel

_FILES: Final = (
    saved.CARD,
    saved.GUIDE,
    ADAPTER,
    "adapter_config.json",
    "items.parquet",
    "users.parquet",
)
_LLM_FILES: Final = (".safetensors", ".json", ".model", ".txt", ".jinja")
"""Endings of a language model's files that are no code and no pickle."""


def write_sella_bundle(
    folder: Path, trained: Artifact, scored: Artifact, dataset: Dataset, *, most_mib: float
) -> None:
    """Writes the bundle of a trained model to `folder`, which is made anew.

    `trained` is an output of the last stage on `dataset`, `scored` of the scoring by that model.
    The bundle holds the language model if it is a folder of at most `most_mib` MiB.
    """
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    card = saved.read_card(trained.path)
    for name in _FILES:
        if (trained.path / name).exists():
            shutil.copyfile(trained.path / name, folder / name)
    llm = Path(card.source)
    files = [f for f in llm.iterdir() if f.suffix in _LLM_FILES] if llm.is_dir() else []
    carried = bool(files) and sum(f.stat().st_size for f in files) <= most_mib * 2**20
    if carried:
        (folder / saved.LLM).mkdir()
        for file in files:
            shutil.copyfile(file, folder / saved.LLM / file.name)
    write_check_rows(folder, dataset, scored.path)
    fingerprints = {
        "model": trained.fingerprint,
        "dataset": dataset.fingerprint,
        "llm": card.digest,
    }
    own = {
        "method": scored.facts["method"],
        "num_users": dataset.schema.num_users,
        "num_items": dataset.schema.num_items,
        "carries_llm": carried,
        "contexts": {},
        "fingerprints": fingerprints,
        "metrics": scored.facts["metrics"],
    }
    seal(folder, common_card(SellaBundle.kind, dataset) | own)


@dataclass(frozen=True, kw_only=True)
class SellaBundle(BundleCard):
    """An opened bundle."""

    kind: ClassVar[Kind] = "sella"

    card: saved.Card
    carries_llm: bool

    @classmethod
    def _parse(cls, folder: Path, card: Mapping[str, Any]) -> Self:
        return cls(
            **cls._common(folder, card),
            strategy=card["method"],
            num_users=card["num_users"],
            num_items=card["num_items"],
            card=saved.read_card(folder),
            carries_llm=card["carries_llm"],
        )

    def load_model(self, device: torch.device) -> YesNoModel:
        """The model in evaluation mode. Raises ArtifactError if its language model is missing or
        another one, SafetensorError, RuntimeError, KeyError or OSError if the weights are not the
        model's."""
        if not self.carries_llm and Path(self.card.source).is_absolute():  # else the hub's name
            self._check_llm()
        try:
            return saved.load(self.path, device)
        except TrainingError as error:
            raise ArtifactError(f"{self.path}: its language model does not load: {error}") from None

    def _check_llm(self) -> None:
        beside = self.path / saved.LLM
        place = str(beside) if beside.is_dir() else self.card.source
        advice = f"put the model it was trained with there, or into {beside}"
        try:
            found = find_language_model(place)
        except EngineError:
            raise ArtifactError(
                f"{self.path}: its language model is not at {place}; {advice}"
            ) from None
        if found.digest != self.card.digest:
            raise ArtifactError(
                f"{self.path}: at {place} is another language model (digest {found.digest[:8]} "
                f"instead of {self.card.digest[:8]}); {advice}"
            )
