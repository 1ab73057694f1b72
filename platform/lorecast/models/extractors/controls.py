"""Plainer extractors, to tell what HEIN's and KSER's parts are worth.

The first three stand in KAR's study of its adaptor, the last two in KSER's.

Shapes: U distinct entities, D encoder width, E embedding width.
"""

from torch import Tensor, nn

from lorecast.config import ModelConfig, Side
from lorecast.models.extractors.entities import EntityExtractor
from lorecast.models.extractors.hein import expert, mixture
from lorecast.models.extractors.kser import KSER
from lorecast.models.inputs import FieldCounts
from lorecast.models.knowledge import KnowledgeShape
from lorecast.models.layers import linear


class MoE(EntityExtractor):
    """Experts and a gate that both sides share; as many experts as a side of HEIN has."""

    def __init__(self, model: ModelConfig, shape: KnowledgeShape, counts: FieldCounts) -> None:
        super().__init__(shape)
        number = model.hein.shared + model.hein.dedicated
        self.shared = nn.ModuleList(expert(model, shape.dim, counts.dim) for _ in range(number))
        self.gate = linear(shape.dim, number)

    def adapt(self, _side: Side, entity_UD: Tensor) -> Tensor:
        """The shared mixture."""
        return mixture(self.gate, self.shared, entity_UD)


class SharedMLP(EntityExtractor):
    """One expert for both sides."""

    def __init__(self, model: ModelConfig, shape: KnowledgeShape, counts: FieldCounts) -> None:
        super().__init__(shape)
        self.shared = expert(model, shape.dim, counts.dim)

    def adapt(self, _side: Side, entity_UD: Tensor) -> Tensor:
        """The expert's answer."""
        field_UE: Tensor = self.shared(entity_UD)
        return field_UE


class Naive(EntityExtractor):
    """A linear map a side: texts appended to the features as they are."""

    def __init__(self, _model: ModelConfig, shape: KnowledgeShape, counts: FieldCounts) -> None:
        super().__init__(shape)
        self.map = nn.ModuleDict({side: linear(shape.dim, counts.dim) for side in shape.sides})

    def adapt(self, side: Side, entity_UD: Tensor) -> Tensor:
        """The side's map."""
        field_UE: Tensor = self.map[side](entity_UD)
        return field_UE


def chunk_mean(model: ModelConfig, shape: KnowledgeShape, counts: FieldCounts) -> KSER:
    """KSER without ESFNet and alignment: the mean of each side's projected chunks."""
    bare = model.kser.model_copy(update={"gate": "none", "align": False})
    return KSER(model.model_copy(update={"kser": bare}), shape, counts)
