"""The click model: backbone, extractor, and the keys of each."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from lorecast.config.own_code import code_fingerprint, is_own
from lorecast.config.section import EXECUTION, Fraction, Positive, Section

Injection = Literal["residual", "widen", "logit"]
Gate = Literal["double_sigmoid", "sigmoid", "softmax", "sparsemax", "top_k", "none"]


class KSERConfig(Section):
    """ESFNet and attention alignment (KSER)."""

    chunks: Literal["texts", "slices", "both"] = Field(
        "texts",
        description="what a gate weighs: a text; a slice of the mean of an entity's texts; "
        "a slice of a text (both)",
    )
    slice: Positive = Field(
        64, description="width of a slice, divides the encoder's (chunks: slices, both)"
    )
    dim: Positive = Field(32, description="width of the work space, d")
    heads: Positive = Field(4, description="attention heads")
    layers: Positive = Field(1, description="attention layers")
    feed_forward: int = Field(
        0, ge=0, description="hidden width of attention's feed-forward, in d; 0: none"
    )
    gate_hidden: Positive = Field(128, description="hidden width of ESFNet")
    dropout: Fraction = Field(0.1, description="dropout in attention and feed-forward")
    gate: Gate = Field(
        "double_sigmoid",
        description="ESFNet's weights: double_sigmoid (0 to 2), sigmoid, softmax or sparsemax "
        "within a field, top_k; none: every chunk as it is",
    )
    top_k: Positive = Field(3, description="chunks of a field that pass (gate: top_k)")
    context: bool = Field(True, description="false: gates see texts alone, not user and target")
    certainty: bool = Field(
        False,
        description="gates see how sure the language model was of each text "
        "(knowledge.llm.certainty)",
    )
    align: bool = Field(True, description="false: without attention, the mean of a side's chunks")
    no_op: bool = Field(True, description="a key that lets a query ignore all knowledge")

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.dim % self.heads:
            raise ValueError("model.kser.dim must be a multiple of model.kser.heads")
        return self

    def identity(self) -> dict[str, Any]:
        """Switches at their start are left out; `network` changes with what the code computes."""
        identity = super().identity()
        switches = ("chunks", "feed_forward", "gate", "top_k", "context", "align", "no_op")
        for switch in (*switches, "certainty"):
            if identity[switch] == type(self).model_fields[switch].default:
                del identity[switch]
        if self.chunks == "texts":
            del identity["slice"]
        return identity | {"network": 3}


class HEINConfig(Section):
    """Experts (HEIN, KAR's hybrid-expert adaptor)."""

    shared: Positive = Field(2, description="experts that both sides use")
    dedicated: Positive = Field(6, description="experts of one side, for each side")
    hidden: Positive = Field(128, description="hidden width of an expert")
    dropout: Fraction = Field(0.0, description="dropout in experts")


class DIENConfig(Section):
    """Interest evolution."""

    evolution: Literal["gru", "aigru", "agru", "augru"] = Field(
        "aigru",
        description="where attention enters the second GRU: after it (gru), at its input (aigru), "
        "as its update gate (agru) or scaling that (augru)",
    )


class CrossConfig(Section):
    """The cross network of DCN and what came of it."""

    layers: Positive = Field(3, description="cross layers")
    head_hidden: tuple[Positive, ...] | None = Field(
        None,
        description="head after [cross; deep]; none: as mlp_hidden (KAR's form); []: one linear "
        "layer (DCNv2's published parallel form)",
    )

    def identity(self) -> dict[str, Any]:
        """The head is left out where it is KAR's."""
        identity = super().identity()
        if self.head_hidden is None:
            del identity["head_hidden"]
        return identity


class XDeepFMConfig(Section):
    """Compressed interactions."""

    maps: tuple[Positive, ...] = Field((50, 50), min_length=1, description="feature maps a layer")


class AutoIntConfig(Section):
    """Self-attention over fields."""

    layers: Positive = Field(3, description="attention layers")
    heads: Positive = Field(1, description="attention heads")
    width: Positive = Field(64, description="width of a field after a layer")

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.width % self.heads:
            raise ValueError("model.autoint.width must be a multiple of model.autoint.heads")
        return self


class FiGNNConfig(Section):
    """Messages between fields."""

    steps: Positive = Field(2, description="rounds of messages")


class SASRecConfig(Section):
    """Self-attention over the history."""

    layers: Positive = Field(2, description="blocks")
    heads: Positive = Field(1, description="attention heads")
    width: Positive = Field(64, description="width of a step")
    places: Positive = Field(
        200, description="steps with a place of their own, from the newest; older ones share one"
    )

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.width % self.heads:
            raise ValueError("model.sasrec.width must be a multiple of model.sasrec.heads")
        return self


BACKBONES = (
    "din",
    "dien",
    "dcn",
    "dcnv2",
    "deepfm",
    "xdeepfm",
    "autoint",
    "fibinet",
    "fignn",
    "gdcn",
    "finalnet",
    "sasrec",
    "mf",
)
WITH_MLP = tuple(name for name in BACKBONES if name not in ("autoint", "fignn", "mf"))
_READ_BY = {
    "attention_hidden": ("din", "dien"),
    "mlp_hidden": WITH_MLP,
    "dropout": WITH_MLP,
    "dien": ("dien",),
    "cross": ("dcn", "dcnv2", "gdcn"),
    "xdeepfm": ("xdeepfm",),
    "autoint": ("autoint",),
    "fignn": ("fignn",),
    "sasrec": ("sasrec",),
}
"""Keys of the model that only these backbones read; they are no part of another one's identity.
One of your own may read all."""


def _known(backbone: str) -> str:
    if backbone not in BACKBONES and not is_own(backbone):
        raise ValueError(
            f"no such backbone: there are {', '.join(BACKBONES)}, or a class of your own as "
            "package.module:Class"
        )
    return backbone


class ModelConfig(Section):
    """The click model."""

    backbone: Annotated[str, AfterValidator(_known)] = Field(
        "din",
        description=f"interaction part: {', '.join(BACKBONES)}; package.module:Class is your own",
    )
    embedding_dim: Positive = Field(32, description="width of a feature embedding, E")
    attention_hidden: tuple[Positive, ...] = Field(
        (32, 16), description="attention MLP of DIN, DIEN"
    )
    mlp_hidden: tuple[Positive, ...] = Field(
        (200, 80), description="head MLP and deep network (all but AutoInt, FiGNN, MF)"
    )
    dropout: Fraction = Field(0.0, description="dropout in the head MLP; SASRec's blocks, too")
    dien: DIENConfig = Field(DIENConfig(), description="backbone: dien")
    cross: CrossConfig = Field(CrossConfig(), description="backbone: dcn, dcnv2, gdcn")
    xdeepfm: XDeepFMConfig = Field(XDeepFMConfig(), description="backbone: xdeepfm")
    autoint: AutoIntConfig = Field(AutoIntConfig(), description="backbone: autoint")
    fignn: FiGNNConfig = Field(FiGNNConfig(), description="backbone: fignn")
    sasrec: SASRecConfig = Field(SASRecConfig(), description="backbone: sasrec")
    extractor: Literal["kser", "hein", "moe", "mlp", "naive", "mean"] = Field(
        "kser", description="how vectors become features; moe, mlp, naive, mean: plainer controls"
    )
    kser: KSERConfig = Field(KSERConfig(), description="extractor: kser; mean: dim and chunks")
    hein: HEINConfig = Field(HEINConfig(), description="extractor: hein, moe, mlp (its experts)")
    injection: Injection = Field(
        "residual",
        description="where extractor_only acts on the frozen backbone: residual, its fields are "
        "shifted (kser only); widen, its MLP's first layer has columns for the extractor's fields; "
        "logit, an MLP of these adds to its logit",
    )
    extractor_from: Annotated[str | None, EXECUTION] = Field(
        None,
        description="folder of a trained model (all_parameters) whose extractor is used as it is; "
        "content decides identity",
    )
    item_field: bool = Field(
        False, description="the items' texts as one more field of every item, histories included"
    )
    shuffle_knowledge: bool = Field(
        False, description="a control: entities get each other's texts, always the same ones"
    )

    @property
    def reads_certainty(self) -> bool:
        """Whether the extractor needs to know how sure the writer was of each text."""
        return self.extractor == "kser" and self.kser.gate != "none" and self.kser.certainty

    def identity(self) -> dict[str, Any]:
        """What backbone and extractor do not read is left out. `extractor` and `kser` alone say how
        knowledge is used; a bare backbone drops these two."""
        identity = super().identity()
        if self.injection == "residual":
            del identity["injection"]
        own = is_own(self.backbone)
        for key, backbones in _READ_BY.items():
            is_default = getattr(self, key) == type(self).model_fields[key].default
            if (own and is_default) or (not own and self.backbone not in backbones):
                del identity[key]
        if own:
            identity["backbone_code"] = code_fingerprint(self.backbone)
        read = {
            "hein": identity.pop("hein"),
            "item_field": identity.pop("item_field"),
            "shuffled": identity.pop("shuffle_knowledge"),
        }
        if self.extractor not in ("hein", "moe", "mlp"):
            del read["hein"]
        for switch in ("item_field", "shuffled"):
            if not read[switch]:
                del read[switch]
        if read:
            identity["extractor"] = {"name": self.extractor, **read}
        if self.extractor not in ("kser", "mean"):
            identity["kser"] = None
        return identity
