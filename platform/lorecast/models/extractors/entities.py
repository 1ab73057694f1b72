"""What extractors share that read an entity as one vector, the mean of its texts.

Such an extractor adds one field a side, the same for an entity whatever the sample. It is computed
once a distinct entity of the batch, or before serving (`models.prestored`).

Shapes: B batch, U distinct entities, C chunks of one side, D encoder width, E embedding width.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lorecast.config import Side
from lorecast.models.extractors.chunks import centred_sample, masked_mean
from lorecast.models.inputs import Fields
from lorecast.models.knowledge import ChunkVectors, KnowledgeShape, SideKnowledge, SideMeans
from lorecast.models.prestored import Known, sample_rows


class EntityMean(nn.Module):
    """k = s · mean of (k_c − m_c) over the entity's texts, m_c what all texts of a chunk have in
    common and s such that k has variance 1 a dimension."""

    mean_CD: Tensor
    scale: Tensor

    def __init__(self, num_chunks: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean_CD", torch.zeros(num_chunks, dim))
        self.register_buffer("scale", torch.ones(()))

    def start_from(self, vectors: ChunkVectors, side: Side) -> None:
        """Sets m and s."""
        mean_CD, centred_UCD, mask_UC = centred_sample(vectors, side)
        variance = masked_mean(centred_UCD, mask_UC)[mask_UC.any(1)].square().mean()
        self.mean_CD.copy_(mean_CD)
        if variance > 0:
            self.scale.copy_(variance.rsqrt())

    def forward(self, known: SideKnowledge | SideMeans) -> Tensor:
        """entity_UD; 0 where there is no text."""
        if isinstance(known, SideKnowledge):
            mean_UD = masked_mean(known.vector_UCD, known.mask_UC)
        else:
            mean_UD = known.mean_UD
        share_UC = known.mask_UC / known.mask_UC.sum(1, keepdim=True).clamp(min=1)
        return self.scale * (mean_UD - share_UC @ self.mean_CD)


class EntityExtractor(nn.Module):
    """One field a side with knowledge: `adapt` of an entity's vector, 0 if it has no text."""

    has_gates = False

    def __init__(self, shape: KnowledgeShape) -> None:
        super().__init__()
        self.num_fields = len(shape.sides)
        self._sides = shape.sides
        self.entity = nn.ModuleDict(
            {side: EntityMean(len(shape.chunks(side)), shape.dim) for side in shape.sides}
        )

    def adapt(self, side: Side, entity_UD: Tensor) -> Tensor:
        """field_UE of one side's entities."""
        raise NotImplementedError

    def start_from(self, vectors: ChunkVectors) -> None:
        """Centres and scales what entities say."""
        for side in self._sides:
            mean = self.entity[side]
            assert isinstance(mean, EntityMean)
            mean.start_from(vectors, side)

    def entity_rows(self, side: Side, known: SideKnowledge | SideMeans) -> Tensor:
        """field_UE of one side's entities."""
        field_UE = self.adapt(side, self.entity[side](known))
        return field_UE * known.mask_UC.any(1, keepdim=True)

    def forward(self, _fields: Fields, knowledge: Mapping[Side, Known]) -> tuple[Tensor, None]:
        """(extra_BXE, None)."""
        extra = [sample_rows(self.entity_rows, side, knowledge[side]) for side in self._sides]
        return torch.stack(extra, dim=1), None
