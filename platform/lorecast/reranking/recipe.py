"""Which re-ranker is trained, and how. Free of torch: a stage asks it for a fingerprint."""

from dataclasses import dataclass
from typing import Any

from lorecast.config import ModelConfig, RerankingConfig, Strategy


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Which re-ranker is trained, and how."""

    model: ModelConfig
    reranking: RerankingConfig
    strategy: Strategy
    """`base` or `all_parameters`."""
    seed: int

    @property
    def label(self) -> str:
        """Short name for people and folders."""
        return f"{self.reranking.model}-{self.strategy}-s{self.seed}"

    @property
    def uses_knowledge(self) -> bool:
        return self.strategy != "base"

    def identity(self) -> dict[str, Any]:
        """What decides the trained model, inputs apart. Backbones have no part in it."""
        model = self.model.identity()
        read = {
            "embedding_dim": self.model.embedding_dim,
            "mlp_hidden": list(self.model.mlp_hidden),
            "dropout": self.model.dropout,
        }
        if self.uses_knowledge:
            read |= {"extractor": model["extractor"], "kser": model["kser"]}
        return {
            "model": read,
            "reranking": self.reranking.identity(),
            "strategy": self.strategy,
            "seed": self.seed,
        }
