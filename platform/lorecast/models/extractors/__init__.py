"""Extractors: what turns knowledge vectors into features.

One is made of (ModelConfig, KnowledgeShape, FieldCounts) and registered by its name in the
experiment (`models.click_model`); its weights are whatever `state_dict` holds.

Shapes: B batch, U distinct entities, C chunks of both sides in a row, X extra fields, E embedding
width, I width of prestored rows.
"""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from lorecast.config import Side
from lorecast.models.inputs import Fields
from lorecast.models.knowledge import ChunkVectors, SideKnowledge
from lorecast.models.prestored import Known


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

    def entity_rows(self, side: Side, known: SideKnowledge) -> Tensor:
        """row_UI: all that depends on an entity alone, ready to be prestored."""

    def __call__(
        self, fields: Fields, knowledge: Mapping[Side, Known]
    ) -> tuple[Tensor, Tensor | None]:
        """(extra_BXE, gate_BC or None), the same of vectors and of the rows that `entity_rows`
        makes of them. A gate is 0 where there is no text."""
