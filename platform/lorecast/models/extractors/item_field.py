"""Texts of items as one more field of every item, so that histories are read through them, too.

An extractor tells a model about the target. With this field the model also sees what the texts say
about each step of the history: DIN's attention compares the two, pooling averages them. Ours; it
depends on no pair, so it is worked out once a distinct item of a batch.

Shapes: U distinct items, D encoder width, E embedding width.
"""

import torch
from torch import Tensor, nn

from lorecast.models.extractors.entities import EntityMean
from lorecast.models.knowledge import ChunkVectors, KnowledgeShape, SideKnowledge, SideMeans
from lorecast.models.layers import linear

_START_SCALE = 0.05
"""Features' embeddings start about as small; a field that starts larger drowns them."""


class ItemField(nn.Module):
    """A linear map of the mean of an item's texts."""

    def __init__(self, shape: KnowledgeShape, dim: int) -> None:
        super().__init__()
        self.width = dim
        self.entity = EntityMean(len(shape.item_chunks), shape.dim)
        self.map = linear(shape.dim, dim, bias=False)
        with torch.no_grad():
            self.map.weight *= _START_SCALE

    def start_from(self, vectors: ChunkVectors) -> None:
        """Centres and scales what items say."""
        self.entity.start_from(vectors, "item")

    def forward(self, known: SideKnowledge | SideMeans) -> Tensor:
        """field_UE; 0 where there is no text."""
        field_UE: Tensor = self.map(self.entity(known))
        return field_UE
