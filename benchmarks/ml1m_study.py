"""Point 3d: MovieLens-1M with users apart, texts of three language models: who gains what.

Writes docs/studies/ml-1m.md: every row of `studies.ml1m_rows`, by backbone, by share of the
training users, by slice of the test part, and with user texts where these are fair.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from benchmarks.harness import Outcome
from benchmarks.studies import ml1m_figures as figures
from benchmarks.studies import ml1m_rows as rows
from benchmarks.studies import ml1m_sources as sources
from benchmarks.studies.grid import ROOT, Grid
from benchmarks.studies.ml1m_slices import ALL, COLD, WARM, Part, measured
from benchmarks.studies.ml1m_sources import percent
from benchmarks.studies.tables import PAIRED, difference, lines, on_test, paired, write_part
from benchmarks.world_methods import same_backbone, summary
from lorecast.artifacts import Artifact
from lorecast.evaluation.results import Gain
from lorecast.evaluation.tables import Line, gained, markdown, number
from lorecast.jobs.console import Console
from lorecast.jobs.pipeline import Pipeline

BAR = (
    "honest figures, warm and cold: four methods on four backbones, the controls, 1 %, 5 %, 20 % "
    "of the training users, user texts on held-out ratings; shuffled texts not above base, frozen "
    "backbones unchanged, extractor only never below base on validation"
)
PAGE = ROOT / "docs" / "studies" / "ml-1m.md"
_TITLE = "Study: MovieLens-1M"
_RESAMPLES = 200
_Found = Mapping[str, Sequence[Artifact]]


def measure() -> Outcome:
    grids = rows.grids()
    pipelines = {name: _made(grid) for name, grid in grids.items()}
    with ThreadPoolExecutor(2) as pool:
        trained = pool.map(lambda grid: grid.run(processes=1), grids.values())
        found = dict(zip(grids, trained, strict=True))
    din = found["din"] | {"base, history of 30": found["long"]["base"]}
    by_share = {rows.SHARE: din} | {share: found[f"share {share:g}"] for share in rows.SHARES}
    parts: dict[float, dict[str, Part]] = {}
    for share in sorted(by_share):
        pipeline = pipelines["din" if share == rows.SHARE else f"share {share:g}"]
        arms = {name: by_share[share][name] for name in rows.THREE}
        parts[share] = measured(pipeline.dataset, arms, _RESAMPLES)
    gear = found["gear"] | {
        "kser, item texts alone": found["gear, item texts"]["kser"],
        "base, history of 30": found["gear, long"]["base"],
        "base, 30 of any time": found["gear, any time"]["base"],
    }
    passed = _passed(found)
    samples = {name: p.prepare().facts["rows"] for name, p in pipelines.items()}
    PAGE.unlink(missing_ok=True)
    _tell_rows(found, din, samples)
    _tell_parts(parts)
    _tell_gear(gear, samples["gear"])
    figures.draw_rows(din, PAGE.with_name("ml-1m-rows.png"))
    figures.draw_shares(parts, PAGE.with_name("ml-1m-shares.png"))
    return Outcome(
        figure=(
            f"{percent(rows.SHARE)} of the training users, DIN, test AUC "
            f"{on_test(din['base']).mean():.4f}; "
            + ", ".join(f"{name} {difference(din[name], din['base'])}" for name in rows.METHODS[1:])
            + "; KSER over users: "
            + ", ".join(
                f"{percent(share)} {_told(of_share[ALL].gains.get('kser'))}"
                for share, of_share in parts.items()
            )
            + f"; user texts: kser {difference(gear['kser'], gear['base'])}"
        ),
        passed=all(passed.values()),
        details={
            "holds": passed,
            "samples": samples,
            "shares": {"valid_users": sources.VALID_SHARE, "test_users": sources.TEST_SHARE},
            "rows": {
                name: {row: summary(models) for row, models in of_grid.items()}
                for name, of_grid in found.items()
            },
            "slices": {
                f"{share:g}": {name: part.record() for name, part in of_share.items()}
                for share, of_share in parts.items()
            },
        },
    )


def _made(grid: Grid) -> Pipeline:
    """The grid's data and vectors, before processes ask for them side by side."""
    pipeline = Pipeline(grid.experiment(), Console())
    if all(row.strategy == "base" for row in grid.rows):
        pipeline.prepare()
    else:
        pipeline.encode()
    return pipeline


def _passed(found: Mapping[str, _Found]) -> dict[str, bool]:
    both = [
        (base, only)
        for of_grid in found.values()
        if "extractor only" in of_grid
        for base, only in zip(of_grid["base"], of_grid["extractor only"], strict=True)
    ]
    shuffled = paired(found["din"]["shuffled"], found["din"]["base"])
    return {
        "every row ranks": all(
            (on_test(models) > 0.5).all()
            for of_grid in found.values()
            for models in of_grid.values()
        ),
        "shuffled": shuffled is None or shuffled.mean <= 0 or shuffled.p >= 0.05,
        "frozen": all(same_backbone(base, only) for base, only in both),
        "never below base": all(_valid_auc(only) >= _valid_auc(base) - 1e-9 for base, only in both),
    }


def _valid_auc(model: Artifact) -> float:
    return float(model.facts["metrics"]["valid"]["auc"])


def _tell_rows(
    found: Mapping[str, _Found], din: _Found, samples: Mapping[str, Mapping[str, int]]
) -> None:
    by_backbone = [
        {"backbone": backbone, **line}
        for backbone in rows.BACKBONES
        for line in lines({name: found[backbone][name] for name in rows.METHODS}, "base")
    ]
    on_din = [
        line | {"AUC − kser": difference(din[line["row"]], din["kser"])}
        for line in lines(din, "base")
    ]
    paragraphs = (
        "`make bar P=3d`. Users are parted 80/10/10; samples begin after a user's first half, at "
        "most 30 ratings (KAR's protocol with a validation part). To save time only "
        f"{percent(rows.SHARE)} of the training, {percent(sources.VALID_SHARE)} of the validation "
        f"and {percent(sources.TEST_SHARE)} of the test users are used: samples "
        f"{_counts(samples['din'])}. Item texts of three language models (colakg, gear-rec, "
        f"agent4rec), no user texts. {len(rows.SEEDS)} seeds, one setting for all rows, epochs by "
        "validation.",
        PAIRED + " Seconds are of a shared machine: costs are measured by `3e`.",
        markdown(by_backbone),
        "On DIN, controls and KSER without its parts. MoE would be HEIN again where one side alone "
        "has texts: it stands in the last part.",
        markdown(on_din),
        "![test AUC against base](ml-1m-rows.png)",
    )
    write_part(PAGE, _TITLE, "1. Four backbones, controls, parts of KSER", paragraphs)


def _tell_parts(parts: Mapping[float, Mapping[str, Part]]) -> None:
    table: list[Line] = [
        {
            "training users": percent(share),
            "test samples": name,
            "rows": f"{part.rows:,}",
            "base": number(part.base_auc),
            **{f"{arm} − base": gained(part.gains.get(arm)) for arm in rows.THREE[1:]},
        }
        for share, of_share in parts.items()
        for name, part in of_share.items()
    ]
    said = [
        f"- {percent(share)} of the training users: "
        + "; ".join(
            f"{name}: KSER {_told(of_share[name].gains.get('kser'))}" for name in (ALL, WARM, COLD)
        )
        for share, of_share in parts.items()
    ]
    seeds = {rows.SHARE: len(rows.SEEDS), **rows.SHARES}
    paragraphs = (
        "DIN; test AUC, mean over seeds ("
        + ", ".join(f"{percent(share)}: {seeds[share]}" for share in parts)
        + f"), and gains with their 95 % interval over users ({_RESAMPLES} draws). Every test "
        "user is new to the model; the user's earlier ratings and the item's training samples "
        "tell who is cold. –: fewer than 50 rows or 10 users. A slice's AUC is that of its rows "
        "alone: compare methods inside a slice.",
        "\n".join(said),
        "![by share of the training users, by slice](ml-1m-shares.png)",
        markdown(table),
    )
    write_part(PAGE, _TITLE, "2. Less training data, cold and warm", paragraphs)


def _tell_gear(gear: _Found, samples: Mapping[str, int]) -> None:
    paragraphs = (
        "gear-rec's user texts were written from 80 % of each user's ratings, drawn at random, so "
        "they know some of what came after a sample. Here all samples are ratings of the other "
        f"20 % ({_counts(samples)}; {percent(rows.GEAR_SHARE)} of the training users), and "
        "histories hold the liked films among the 80 % before the sample. Training samples, too, "
        "are ratings that no text has seen: a model trained on ratings the texts were written from "
        "learns to trust them too much, and the platform refuses to train it.",
        "The texts still know later ratings than a history does, so a gain is not all the language "
        "model's. The last row gives a bare backbone such ratings: 30 liked films from before and "
        "after the sample.",
        PAIRED,
        markdown(lines(gear, "base")),
    )
    write_part(PAGE, _TITLE, "3. User texts on held-out ratings", paragraphs)


def _told(gain: Gain | None) -> str:
    if gain is None:
        return "not measured"
    if gain.low > 0 or gain.high < 0:
        return f"{'gains' if gain.low > 0 else 'loses'} {gained(gain)}"
    return f"gains nothing that can be told from none, {gained(gain)}"


def _counts(samples: Mapping[str, int]) -> str:
    return " / ".join(f"{samples[split]:,}" for split in ("train", "valid", "test"))
