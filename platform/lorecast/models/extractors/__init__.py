"""Extractors: what turns knowledge vectors into features.

One is made of (ModelConfig, KnowledgeShape, FieldCounts) and registered by its name in the
experiment (`models.click_model`); its weights are whatever `state_dict` holds.

Shapes: B batch, C chunks of both sides in a row, X extra fields, E embedding width.
"""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from lorecast.config import Side
from lorecast.models.inputs import Fields
from lorecast.models.knowledge import ChunkVectors, SideKnowledge


class Extractor(Protocol):
    """A torch module that adds fields to a batch.

    A text that the mask leaves out has no influence, and a sample's fields do not depend on the
    others of its batch.
    """

    num_fields: int
    """X, the fields it adds."""
    has_gates: bool
    """True if it weighs each chunk; else `forward` gives None for gates."""

    def start_from(self, vectors: ChunkVectors) -> None:
        """Sets start values that depend on the texts; before training only."""

    def __call__(
        self, fields: Fields, knowledge: Mapping[Side, SideKnowledge]
    ) -> tuple[Tensor, Tensor | None]:
        """(extra_BXE, gate_BC or None). A gate is 0 where there is no text."""
