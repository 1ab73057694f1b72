"""Which model is trained, and how. Free of torch: a stage asks it for a fingerprint."""

from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from lorecast.config import ModelConfig, Strategy, TrainingConfig, TrainingProtocol

CHOSEN_ON_TEST: Final = "chosen on the test part"
"""What marks each figure of protocol kar."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Which model is trained, and how."""

    model: ModelConfig
    training: TrainingConfig
    strategy: Strategy
    seed: int

    @property
    def label(self) -> str:
        """Short name for people and folders."""
        protocol = "" if self.protocol == "honest" else f"-{self.protocol}"
        return f"{self.strategy}-s{self.seed}{protocol}"

    @property
    def protocol(self) -> TrainingProtocol:
        return self.training.protocol

    @property
    def chosen_on(self) -> Literal["valid", "test"]:
        """The part that chooses the epoch."""
        return "test" if self.protocol == "kar" else "valid"

    @property
    def uses_knowledge(self) -> bool:
        return self.strategy != "base"

    @property
    def keeps_backbone(self) -> bool:
        """Whether the extractor alone is trained."""
        return self.strategy == "extractor_only"

    @property
    def is_pretrained(self) -> bool:
        """Whether the backbone it starts from is named in the experiment."""
        return self.uses_knowledge and self.training.backbone_from is not None

    @property
    def is_injected(self) -> bool:
        """Whether the extractor acts on a backbone that is trained before."""
        return self.keeps_backbone or self.is_pretrained

    @property
    def is_transfer(self) -> bool:
        """Whether the extractor is another model's, and stays as it is."""
        return self.strategy == "all_parameters" and self.model.extractor_from is not None

    @property
    def base(self) -> "Recipe":
        """The bare backbone with the same seed."""
        return replace(self, strategy="base")

    def identity(self) -> dict[str, Any]:
        """What decides the trained model, inputs apart. The bare backbone ignores extractors."""
        model = self.model.identity()
        if not self.uses_knowledge:
            del model["extractor"], model["kser"]
        if not self.is_injected:
            model.pop("injection", None)
        training = self.training.identity()
        del training["strategies"], training["seeds"]
        return {"model": model, "training": training, "strategy": self.strategy, "seed": self.seed}
