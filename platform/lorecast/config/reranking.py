"""Re-ranking: how lists are made, and the model that orders them anew."""

from typing import Literal, Self

from pydantic import Field, model_validator

from lorecast.config.section import Positive, Section


class RerankingConfig(Section):
    """Lists of items and a model that sees a list whole (`lorecast rerank`).

    What is embedded and what knowledge becomes stands in `model`, seeds and strategies in
    `training`.
    """

    model: Literal["dlcm", "prm", "setrank"] = Field("prm", description="what orders a list anew")
    list_length: int = Field(10, ge=2, description="items a list")
    clicked: Positive = Field(
        4,
        description="of them, interactions of the user in a row, with their labels; the others are "
        "random items with label 0",
    )
    seed: int = Field(0, description="of the random items; the same lists for every model")
    history: bool = Field(
        True,
        description="whether a model also reads the user's averaged history; false: items and "
        "knowledge alone, as published",
    )
    cutoffs: tuple[Positive, ...] = Field(
        (1, 3, 5, 7), min_length=1, description="places k of MAP@k, NDCG@k and clicks@k"
    )
    epochs: Positive = Field(50, description="at most so many passes")
    patience: Positive = Field(3, description="epochs without a better validation MAP@5")
    batch_size: Positive = Field(128, description="lists a step")
    learning_rate: float = Field(1e-3, gt=0.0, description="AdamW's")

    @model_validator(mode="after")
    def _interactions_fit(self) -> Self:
        if self.clicked > self.list_length:
            raise ValueError("reranking.clicked must be at most reranking.list_length")
        return self
