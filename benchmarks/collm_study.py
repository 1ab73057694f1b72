"""The study of CoLLM's split: `python -m benchmarks.collm_study` writes docs/studies/collm.md.

Four backbones, controls and parts of KSER on DeepFM, with item texts alone and five seeds. All rows
have the setting that validation chose for point 3c.
"""

from collections.abc import Mapping, Sequence

from benchmarks.collm_split import SEEDS, SETTINGS, grid
from benchmarks.studies.grid import ROOT, Row
from benchmarks.studies.tables import PAIRED, lines, write_part
from benchmarks.studies.world_rows import ABLATIONS
from lorecast.artifacts import Artifact
from lorecast.evaluation.tables import markdown

_PAGE = ROOT / "docs" / "studies" / "collm.md"
_BACKBONES = ("din", "dcnv2", "deepfm", "autoint")
_CONTROLS = {name: own for name, own in ABLATIONS.items() if name != "MoE"} | {
    "mean": ("model.extractor=mean",)
}
"""On DeepFM. With texts of one side alone MoE is HEIN."""
_PLAIN, _READ = "model.item_field=false", "model.item_field=true"
_METHODS = {
    "base": ("base", (_PLAIN,)),
    "hein": ("all_parameters", (_PLAIN, "model.extractor=hein")),
    "kser": ("all_parameters", (_PLAIN, "model.extractor=kser")),
    "extractor only": ("extractor_only", (_PLAIN, "model.extractor=kser")),
    "naive, texts in histories": ("all_parameters", (_READ, "model.extractor=naive")),
}
"""The last is 3c's choice: texts are a field of every film, those of histories too."""
_LONG = "base, history of 150"
_Found = Mapping[str, Sequence[Artifact]]


def main() -> None:
    """Trains what is missing and writes the page."""
    found = {backbone: grid(_rows(backbone), SEEDS).run() for backbone in _BACKBONES}
    controls = tuple(
        _row(name, "deepfm", "all_parameters", (_PLAIN, "model.extractor=kser", *own))
        for name, own in _CONTROLS.items()
    )
    deepfm = {**found["deepfm"], **grid(controls, SEEDS).run()}
    long = _row(_LONG, "deepfm", "base", (_PLAIN,))
    deepfm |= grid((long,), SEEDS, ("dataset.history_length=150",)).run()
    _write(found, deepfm)


def _rows(backbone: str) -> tuple[Row, ...]:
    return tuple(_row(name, backbone, strategy, own) for name, (strategy, own) in _METHODS.items())


def _row(name: str, backbone: str, strategy: str, own: tuple[str, ...]) -> Row:
    return Row(name, strategy, (f"model.backbone={backbone}", *own, *SETTINGS[-1]))


def _write(found: Mapping[str, _Found], deepfm: _Found) -> None:
    by_backbone = [
        {"backbone": backbone, **line}
        for backbone, of_backbone in found.items()
        for line in lines(of_backbone, "base")
    ]
    intro = (
        "`python -m benchmarks.collm_study`. CoLLM's split of MovieLens-1M "
        "(33,891 / 10,401 / 7,331 samples), item texts of three language models, a "
        "history of 50 liked films, "
        f"{len(SEEDS)} seeds. All rows have one setting: {', '.join(SETTINGS[-1])}; validation "
        "chose it for DeepFM with texts among those of `3c`, and each row's epoch."
    )
    shared = " Seconds are of a shared machine."
    parts = (intro, PAIRED + shared, markdown(by_backbone))
    write_part(_PAGE, "Study: CoLLM's split", "1. Four backbones", parts)
    told = "Controls, KSER without its parts and a three times longer history, on DeepFM."
    parts = (told, PAIRED + shared, markdown(lines(deepfm, "base")))
    write_part(_PAGE, "Study: CoLLM's split", "2. Controls and parts", parts)


if __name__ == "__main__":
    main()
