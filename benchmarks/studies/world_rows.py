"""The rows of the studies on the embedded world: individual knowledge by its own LLM."""

from benchmarks.studies.grid import ROOT, Grid, Row

SEEDS = (0, 1, 2, 3, 4)
PAGE = ROOT / "docs" / "studies" / "world.md"
TITLE = "Study: the embedded world"
NINE = ("din", "dien", "dcn", "dcnv2", "deepfm", "xdeepfm", "autoint", "fibinet", "fignn")
"""KAR's backbones."""
METHODS = ("base", "hein", "kser", "extractor only")
ABLATIONS = {
    "without ESFNet": ("model.kser.gate=none",),
    "without alignment": ("model.kser.align=false",),
    "without both": ("model.kser.gate=none", "model.kser.align=false"),
    "gates without context": ("model.kser.context=false",),
    "shuffled": ("model.shuffle_knowledge=true",),
    "naive": ("model.extractor=naive",),
    "one MLP": ("model.extractor=mlp",),
    "MoE": ("model.extractor=moe",),
}
"""On DIN, beside the four methods."""
# What texts of the world differ in: HEIN needs it to learn at all, KSER does as well with all 384.
_COMMON = ("encoding.components=64",)
CERTAINTY = ("knowledge.llm.certainty=true", "model.kser.certainty=true")
"""Texts with the language model's certainty, which gates see."""
HEIN = ("model.extractor=hein", "model.hein.dropout=0.2")
"""HEIN as validation wants it: mean AUC of two seeds on AutoInt, DeepFM and DIN .685, .690 and .686
at dropout 0, .2 and .4; learning rates 3e-4 and 3e-3 and hidden width 32 were tried on AutoInt
alone. The bare backbone was tried there and on DIN with learning rate 3e-3 and weight decay 1. Test
figures were printed beside these trials. KSER has its defaults."""


def methods(backbone: str) -> tuple[Row, ...]:
    """The four methods on one backbone."""
    own = (f"model.backbone={backbone}",)
    return (
        Row(f"{backbone}: base", "base", own),
        Row(f"{backbone}: hein", "all_parameters", (*own, *HEIN)),
        Row(f"{backbone}: kser", "all_parameters", own),
        Row(f"{backbone}: extractor only", "extractor_only", own),
    )


def ablations() -> tuple[Row, ...]:
    """KSER on DIN without its parts, the controls, and knowledge of others."""
    return tuple(
        Row(f"din: {name}", "all_parameters", overrides) for name, overrides in ABLATIONS.items()
    )


def grid(rows: tuple[Row, ...], more: tuple[str, ...] = ()) -> Grid:
    """These rows on the world, five seeds; `more`: overrides of all of them."""
    return Grid(ROOT / "configs" / "world.yaml", (*_COMMON, *more), rows, SEEDS)
