"""The click model: feature embeddings, an extractor of knowledge if there is any, a backbone.

Shapes: B batch, C chunks of knowledge.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal, Self, cast

import torch
from torch import Tensor, nn

from lorecast.config import ModelConfig, Side
from lorecast.data.dataset import FeatureSchema
from lorecast.errors import EncodingError
from lorecast.models.backbones.autoint import AutoInt
from lorecast.models.backbones.dcn import DCN, GDCN, DCNv2
from lorecast.models.backbones.deepfm import DeepFM
from lorecast.models.backbones.dien import DIEN
from lorecast.models.backbones.din import DIN
from lorecast.models.backbones.fibinet import FiBiNet
from lorecast.models.backbones.fignn import FiGNN
from lorecast.models.backbones.finalnet import FinalNet
from lorecast.models.backbones.mf import MF
from lorecast.models.backbones.own import check_logits, own_backbone
from lorecast.models.backbones.sasrec import SASRec
from lorecast.models.backbones.xdeepfm import XDeepFM
from lorecast.models.extractors import Extractor
from lorecast.models.extractors.controls import MoE, Naive, SharedMLP, chunk_mean
from lorecast.models.extractors.entities import EntityExtractor
from lorecast.models.extractors.hein import HEIN
from lorecast.models.extractors.item_field import ItemField
from lorecast.models.extractors.kser import KSER
from lorecast.models.feature_tables import SideFeatures
from lorecast.models.features import FeatureEmbedding
from lorecast.models.inputs import Batch, FieldCounts, Fields
from lorecast.models.knowledge import (
    Chunk,
    ChunkVectors,
    EntityMeans,
    KnowledgeShape,
    gather,
    gather_side,
    shuffled,
)
from lorecast.models.layers import linear, zero_linear
from lorecast.models.prestored import EntityTables, Known, StoredRows

_BACKBONES: dict[str, type[nn.Module]] = {
    "din": DIN,
    "dien": DIEN,
    "dcn": DCN,
    "dcnv2": DCNv2,
    "deepfm": DeepFM,
    "xdeepfm": XDeepFM,
    "autoint": AutoInt,
    "fibinet": FiBiNet,
    "fignn": FiGNN,
    "gdcn": GDCN,
    "finalnet": FinalNet,
    "sasrec": SASRec,
    "mf": MF,
}
"""Name in the experiment to module: made of (ModelConfig, FieldCounts), Fields to logit_B."""
_EXTRACTORS: dict[str, Callable[[ModelConfig, KnowledgeShape, FieldCounts], Extractor]] = {
    "kser": KSER,
    "hein": HEIN,
    "moe": MoE,
    "mlp": SharedMLP,
    "naive": Naive,
    "mean": chunk_mean,
}
"""Name in the experiment to module."""


Without = Literal["texts", "extractor"]
"""What a model is asked to do without: `texts`, as if nothing were written about anybody;
`extractor`, the backbone alone (injected form only)."""


class ClickModel(nn.Module):
    """Predicts clicks from rows of samples; without `knowledge` it is the bare backbone.

    Call `attach` before the first batch: what it sets is data, not weights, and stays out of
    `state_dict`.

    Two forms. *Pooled*: the extractor adds fields, and everything is trained; or all but the
    extractor, if `config.extractor_from` is given: it and the features it asks with are another
    model's and stay as they are. *Injected*: the extractor acts on a trained backbone, made without
    its fields, where `config.injection` says. Before the first step that adds zero, so the model
    scores like that backbone, bit for bit.
    """

    def __init__(
        self,
        config: ModelConfig,
        schema: FeatureSchema,
        knowledge: KnowledgeShape | None,
        *,
        injected: bool = False,
    ) -> None:
        super().__init__()
        self.features = FeatureEmbedding(schema, config.embedding_dim)
        counts = self.features.counts
        self.asking: FeatureEmbedding | None = None
        """What a transferred extractor asks with; else it asks with `features`."""
        if knowledge and config.extractor_from is not None:
            self.asking = FeatureEmbedding(schema, config.embedding_dim)
        self.item_field = None
        if knowledge and config.item_field:
            self.item_field = ItemField(knowledge, config.embedding_dim)
            counts = counts._replace(target=counts.target + 1, history=counts.history + 1)
        self._injection = config.injection if injected else None
        self._keeps_backbone = False
        if self._injection == "residual":
            assert knowledge
            assert config.extractor == "kser", "the residual form is KSER's"
            self.extractor: Extractor | None = KSER(config, knowledge, counts, residual=True)
        else:
            make = _EXTRACTORS[config.extractor]
            self.extractor = make(config, knowledge, counts) if knowledge else None
        self.join: nn.Module | None = None
        """Maps the extractor's fields to where they join an injected model."""
        if self.extractor and self._injection in ("widen", "logit"):
            self.join = _join(config, self.extractor.num_fields * counts.dim)
        elif self.extractor and not injected:
            counts = counts._replace(extra=counts.extra + self.extractor.num_fields)
        make_backbone = _BACKBONES.get(config.backbone) or own_backbone(config.backbone)
        self.backbone = make_backbone(config, counts)
        self._backbone_name = config.backbone
        for module in self._frozen:
            module.requires_grad_(False)
        self.knowledge = knowledge
        self._reads_certainty = config.reads_certainty
        self._shuffle = config.shuffle_knowledge
        self._vectors: ChunkVectors | None = None
        self._means: dict[Side, EntityMeans] = {}
        self._prestored: EntityTables | None = None

    @property
    def has_gates(self) -> bool:
        """True if `gates` can be asked: the extractor weighs each chunk."""
        return self.extractor is not None and self.extractor.has_gates

    @property
    def gate_chunks(self) -> tuple[tuple[Side, Chunk], ...]:
        """What `gates` weighs, each with its side, in the order of C."""
        assert isinstance(self.extractor, KSER), "ask `has_gates` first"
        return self.extractor.shape.all_chunks

    @property
    def _frozen(self) -> tuple[nn.Module, ...]:
        if self._keeps_backbone:
            return self.features, self.backbone
        if self.asking:
            return self.asking, cast(nn.Module, self.extractor)
        return ()

    def train(self, mode: bool = True) -> Self:
        """As in torch; what is frozen stays in evaluation mode."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def load_backbone(self, state: Mapping[str, Tensor], *, frozen: bool = True) -> None:
        """Takes the weights of a bare backbone of the same dataset (injected form).

        `frozen`: it stays as it is from now on, weights and statistics.
        """
        assert self._injection, "a pooled model starts from the seed"
        unused = self.load_state_dict(dict(state), strict=False)
        assert not unused.unexpected_keys, "the weights are a bare backbone's"
        assert all(name.startswith(("extractor.", "join.")) for name in unused.missing_keys)
        self._keeps_backbone = frozen
        for module in (self.features, self.backbone):
            module.requires_grad_(not frozen)

    def load_extractor(self, state: Mapping[str, Tensor]) -> None:
        """Takes extractor and features of another model of the same dataset and vectors."""
        assert self.asking, "the experiment names no model to take an extractor from"
        taken = {
            name.replace("features.", "asking.", 1): value
            for name, value in state.items()
            if name.startswith(("features.", "extractor."))
        }
        unused = self.load_state_dict(taken, strict=False)
        assert not unused.unexpected_keys, "the extractor is the experiment's"
        assert all(name.startswith(("features.", "backbone.")) for name in unused.missing_keys)

    def attach(
        self,
        items: SideFeatures,
        users: SideFeatures,
        vectors: ChunkVectors | EntityTables | None,
    ) -> None:
        """Sets what batches refer to: features by row (see `feature_tables`) and the stored
        vectors or, for scoring, what the extractor made of them (see `prestored`); the model reads
        either where it lies. Raises EncodingError if the vectors are not of the model's shape, or
        lack the certainty that it reads."""
        assert (vectors is None) == (self.knowledge is None), "vectors and knowledge go together"
        self.features.attach(items, users)
        if self.asking:
            self.asking.attach(items, users)
        self._prestored = vectors if isinstance(vectors, EntityTables) else None
        self._vectors, self._means = None, {}
        if vectors is not None and self.knowledge and not isinstance(vectors, EntityTables):
            check_vectors(
                vectors,
                self.knowledge,
                {"item": items, "user": users},
                certainty=self._reads_certainty,
            )
            if self._shuffle:
                vectors = shuffled(vectors, self.knowledge.sides)
            self._vectors = vectors

    def start_from_vectors(self) -> None:
        """Sets start values that depend on the attached vectors; before training, not when weights
        are loaded."""
        if self.extractor:
            assert self._vectors, "attach the vectors first"
            self.extractor.start_from(self._vectors)
            if self.item_field:
                self.item_field.start_from(self._vectors)

    def hold_means(self) -> None:
        """Holds in memory, as far as it is worth it, the means of texts where nothing finer is
        read of an entity; for training, where a table is read many times."""
        if not self.extractor:
            return
        assert self._vectors, "attach the vectors first"
        assert self.knowledge
        sides = set(self.knowledge.sides) if isinstance(self.extractor, EntityExtractor) else set()
        if self.item_field:
            sides.add("item")
        found = {side: EntityMeans.of(self._vectors, side) for side in sides}
        self._means = {side: means for side, means in found.items() if means is not None}

    def forward(self, batch: Batch, *, without: Without | None = None) -> Tensor:
        """logit_B; `without` part of the model, if given. Raises TrainingError if the backbone
        gives something else."""
        fields = self._fields(batch, without)
        added_B1: Tensor | None = None
        told = batch if without is None else _of_nobody(batch)
        if without == "extractor":
            assert self._injection, "a pooled backbone relies on its extractor"
        elif self._injection == "residual":
            assert isinstance(self.extractor, KSER)
            fields = self.extractor.shift(fields, self._known(told))
        elif self.extractor:
            asking = self.asking(batch) if self.asking else fields
            extra_BXE, _ = self.extractor(asking, self._known(told))
            if self.join is None:
                fields = fields.with_extra(extra_BXE)
            elif self._injection == "widen":
                fields = replace(fields, beside_BH=self.join(extra_BXE.flatten(1)))
            else:
                added_B1 = self.join(extra_BXE.flatten(1))
        logit_B: Tensor = self.backbone(fields)
        check_logits(self._backbone_name, logit_B, len(batch))
        return logit_B if added_B1 is None else logit_B + added_B1.squeeze(1)

    def gates(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(gate_BC, mask_BC): ESFNet's weights, in the order of `gate_chunks`, and 1 where there is
        a text; without one the weight is 0, which a text may have, too."""
        assert isinstance(self.extractor, KSER), "ask `has_gates` first"
        asking = self.asking(batch) if self.asking else self._fields(batch)
        return self.extractor.gates(asking, self._known(batch))

    def _fields(self, batch: Batch, without: Without | None = None) -> Fields:
        """The features' fields and, of items, the one from their texts."""
        from_texts = self._field_of_items if without is None else self._field_of_nobody
        fields: Fields = self.features(batch, from_texts if self.item_field else None)
        if isinstance(self.backbone, DIN) and self._injection != "residual":
            return fields  # takes one history for all
        return replace(fields, history=fields.history.of_each(len(batch)))

    def _field_of_nobody(self, row_U: Tensor) -> Tensor:
        """field_UE of items without texts."""
        return self._field_of_items(row_U.new_zeros(1)).expand(len(row_U), -1)

    def _field_of_items(self, row_U: Tensor) -> Tensor:
        """field_UE of distinct items."""
        assert self.item_field, "the experiment wants none"
        if self._prestored:
            stored_UE = self._prestored.rows("item", row_U)[:, -self.item_field.width :]
            return stored_UE
        assert self._vectors, "attach the vectors first"
        means = self._means.get("item")
        known = means.gather(row_U) if means else gather_side(self._vectors, "item", row_U)
        field_UE: Tensor = self.item_field(known)
        return field_UE

    def entity_rows(self, side: Side, row_U: Tensor) -> Tensor:
        """row_UI: what the extractor and, last, the item field make of entities by themselves;
        rows are distinct and in order."""
        assert self.extractor, "a bare backbone has none"
        assert self._vectors, "attach the vectors first"
        known = gather_side(self._vectors, side, row_U)
        row_UI = self.extractor.entity_rows(side, known)
        if side == "item" and self.item_field:
            row_UI = torch.cat([row_UI, self.item_field(known)], dim=1)
        return row_UI

    def _known(self, batch: Batch) -> Mapping[Side, Known]:
        assert self.knowledge
        if self._prestored:
            known = self._prestored.gather(batch)
            if self.item_field:
                known["item"] = StoredRows(known["item"].row_BI[:, : -self.item_field.width])
            return known
        assert self._vectors, "attach the vectors first"
        if not (self._means and isinstance(self.extractor, EntityExtractor)):
            return gather(self._vectors, self.knowledge, batch)
        rows = {"item": batch.item_row_B, "user": batch.user_row_B}
        return {
            side: self._means[side].gather(rows[side])
            if side in self._means
            else gather_side(self._vectors, side, rows[side])
            for side in self.knowledge.sides
        }


def _of_nobody(batch: Batch) -> Batch:
    """The batch with the rows that have no texts."""
    nobody_B = torch.zeros_like(batch.item_row_B)
    return replace(batch, item_row_B=nobody_B, user_row_B=nobody_B)


def _join(config: ModelConfig, inputs: int) -> nn.Module:
    """Of an extractor's fields in a row: `widen`, their columns in the backbone's first layer;
    `logit`, w·MLP of them. Either starts at zero."""
    if config.injection == "widen":
        return zero_linear(inputs, config.mlp_hidden[0], bias=False)
    return nn.Sequential(linear(inputs, inputs), nn.ReLU(), zero_linear(inputs, 1, bias=False))


def check_vectors(
    vectors: ChunkVectors,
    shape: KnowledgeShape,
    features: Mapping[Side, SideFeatures],
    *,
    certainty: bool,
) -> None:
    """Raises EncodingError unless each side has a row of vectors for a row of features, they are
    of this shape and, if asked for, come with their texts' certainty."""
    for side in shape.sides:
        expected = (len(features[side].codes), len(shape.chunks(side)), shape.dim)
        found = vectors.vectors(side).shape
        if found != expected:
            raise EncodingError(
                f"the {side}s' vectors are {list(found)} (rows, texts, width), and the model takes "
                f"{list(expected)}: they are of another dataset, knowledge or encoder; run "
                "`lorecast encode` and `lorecast train` again"
            )
        if certainty and vectors.certainty(side) is None:
            raise EncodingError(
                "model.kser.certainty is true, and no text says how sure its writer was: set "
                "knowledge.llm.certainty to true, which asks again, or model.kser.certainty to "
                "false"
            )
