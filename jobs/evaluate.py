"""evaluate: arms on the same test rows, with slices, calibration, and how sure each figure is.

    workspace/evaluate/<name>-<fingerprint8>/evaluation.json, evaluation.md, *.png

Test scores are read here and by `report` alone; nothing is chosen by them.
"""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lorecast.artifacts import MANIFEST, Artifact, StageSpec, build, find
from lorecast.config import Side
from lorecast.data.batches import Samples, load_samples
from lorecast.encoding.vectors import VectorsTable
from lorecast.errors import ConfigError
from lorecast.evaluation import comparison, plots, tables
from lorecast.evaluation.calibration import BINS
from lorecast.evaluation.comparison import METRICS, Scored
from lorecast.evaluation.results import ArmResult, Evaluation
from lorecast.evaluation.slices import Slice, slices, training_counts
from lorecast.evaluation.uncertainty import RESAMPLES
from lorecast.jobs.arms import Arm, train_arms
from lorecast.jobs.console import Console

STAGE = "evaluate"
_SCORES = "scores.parquet"
_ROWS = ("user_row", "item_row", "label")
_SIDES: tuple[Side, ...] = ("user", "item")
_SHOWN_BY_SLICE = ("auc", "uauc")


def run(
    words: Sequence[str],
    extra: Sequence[str],
    console: Console,
    out: Path | None = None,
    resamples: int = RESAMPLES,
) -> Path:
    """Evaluates the experiment's arms and prints the tables; returns the artifact's folder.

    `words` and `extra` as for `train_arms`; `out` gets a copy of the files;
    `resamples`: how often users are drawn anew.
    Raises ConfigError if the arms were not tested on the same rows.
    """
    arms = train_arms(words, extra, console)
    artifact = evaluate(arms, console, resamples)
    evaluation = read(artifact)
    console.heading(f"lorecast evaluate · {evaluation.name}")
    show(evaluation, console)
    if out is not None:
        copy(artifact.path, out)
    folder = out or artifact.path
    console.result(
        f"evaluation: {folder / 'evaluation.md'}",
        evaluation=str(folder),
        **evaluation.model_dump(mode="json"),
    )
    return artifact.path


def evaluate(arms: Sequence[Arm], console: Console, resamples: int = RESAMPLES) -> Artifact:
    """The evaluation of trained arms, the first of which is the reference; made once."""
    config = arms[0].pipeline.config
    models = {f"{arm.name} s{seed}": m for arm in arms for seed, m in arm.trained.items()}
    spec = StageSpec(
        stage=STAGE,
        name=config.name,
        identity={
            "layout": 2,
            "metrics": list(METRICS),
            "bins": BINS,
            "resamples": resamples,
            "arms": [arm.name for arm in arms],
        },
        inputs={name: model.artifact.fingerprint for name, model in models.items()},
    )
    workspace = config.compute.folder
    if artifact := find(workspace, spec):
        return artifact
    with build(workspace, spec) as draft:
        evaluation = _evaluation(arms, console, resamples)
        pictures = plots.draw(evaluation, draft.path)
        text = "\n\n".join(_told(evaluation))
        (draft.path / "evaluation.md").write_text(text + "\n", encoding="utf-8")
        (draft.path / "evaluation.json").write_text(
            evaluation.model_dump_json(indent=1), encoding="utf-8"
        )
        draft.facts.update(rows=evaluation.rows, arms=[arm.name for arm in arms], pictures=pictures)
    return Artifact.open(draft.path)


def read(artifact: Artifact) -> Evaluation:
    """What an evaluation found."""
    text = (artifact.path / "evaluation.json").read_text(encoding="utf-8")
    return Evaluation.model_validate_json(text)


def show(evaluation: Evaluation, console: Console) -> None:
    """Prints the tables."""
    console.table(f"{evaluation.rows:,} test rows", tables.figures(evaluation))
    if len(evaluation.arms) > 1:
        console.table(f"against {evaluation.reference}", tables.gains(evaluation))
    for metric in _SHOWN_BY_SLICE:
        name = tables.metric_name(metric)
        console.table(f"{name} by slice", tables.slices(evaluation, metric))


def copy(artifact: Path, out: Path) -> None:
    """The files of an artifact without its manifest: a folder to read, not one to build on."""
    shutil.copytree(artifact, out, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MANIFEST))


def scored_rows(arms: Sequence[Arm]) -> Scored:
    """Every model's test scores. Raises ConfigError naming the arms whose rows differ."""
    first = arms[0]
    rows = _columns(first, next(iter(first.trained)), _ROWS)
    scores: dict[str, dict[int, NDArray[np.float32]]] = {}
    for arm in arms:
        scores[arm.name] = {}
        for seed in arm.trained:
            table = _columns(arm, seed, (*_ROWS, "score"))
            if not table.select(_ROWS).equals(rows):
                raise ConfigError(
                    f"arms {first.name!r} ({rows.num_rows:,} test rows) and {arm.name!r} "
                    f"({table.num_rows:,}) were tested on different rows: an --arm may override "
                    "knowledge, encoding, model and training, not what dataset.* makes of the test"
                )
            scores[arm.name][seed] = table["score"].to_numpy()
    return Scored(user_B=rows["user_row"].to_numpy(), label_B=rows["label"].to_numpy(), arms=scores)


def _columns(arm: Arm, seed: int, names: Sequence[str]) -> pa.Table:
    return pq.read_table(arm.trained[seed].artifact.path / _SCORES, columns=list(names))


def _evaluation(arms: Sequence[Arm], console: Console, resamples: int) -> Evaluation:
    scored = scored_rows(arms)
    test, parts = slices_of(arms)
    assert np.array_equal(test.user_row_B, scored.user_B), "scores stand in the samples' order"
    with console.progress("evaluate", 1 + len(parts)) as task:
        measured = comparison.measure(scored, METRICS, resamples)
        task.advance()
        of_parts = []
        for part in parts:
            of_parts.append(comparison.measure_slice(scored, part, resamples))
            task.advance()
    return Evaluation(
        name=arms[0].pipeline.config.name,
        rows=len(scored.label_B),
        users=len(np.unique(scored.user_B)),
        clicks=int((scored.label_B == 1).sum()),
        reference=arms[0].name,
        resamples=resamples,
        bins=BINS,
        arms=tuple(
            ArmResult(
                name=arm.name,
                strategy=arm.strategy,
                model=arm.model,
                measured=of_arm,
                reliability=comparison.curve(scored, arm.name, BINS),
            )
            for arm, of_arm in zip(arms, measured, strict=True)
        ),
        slices=tuple(of_parts),
    )


def slices_of(arms: Sequence[Arm]) -> tuple[Samples, tuple[Slice, ...]]:
    """The first arm's test samples, and their slices."""
    dataset = arms[0].pipeline.dataset
    test = load_samples(dataset, "test")
    return test, slices(test, training_counts(dataset), _has_text(arms))


def _has_text(arms: Sequence[Arm]) -> dict[str, tuple[Side, NDArray[np.bool_]]]:
    """Which rows have any text, by side; by arm, too, where arms differ in that."""
    found: dict[str, tuple[Side, NDArray[np.bool_]]] = {}
    for arm in arms:
        if arm.strategy == "base":
            continue
        vectors = VectorsTable.open(arm.pipeline.encode().path)
        for side in (side for side in _SIDES if vectors.chunks(side)):
            has_text_R: NDArray[np.bool_] = np.asarray(vectors.mask(side).any(1))
            known = [mask_R for of_side, mask_R in found.values() if of_side == side]
            if not any(np.array_equal(has_text_R, mask_R) for mask_R in known):
                of_arm = f" of {arm.name}" if known else ""
                found[f"{side} knowledge{of_arm}"] = side, has_text_R
    return found


def _told(evaluation: Evaluation) -> Iterator[str]:
    yield f"# Evaluation of {evaluation.name}"
    yield (
        f"{evaluation.rows:,} test rows of {evaluation.users:,} users, "
        f"{evaluation.clicks / evaluation.rows:.1%} clicks. Intervals: 95 %, users drawn anew "
        f"{evaluation.resamples:,} times. What each figure means: docs/evaluation.md."
    )
    yield "\n".join(
        f"- **{arm.name}**: {arm.model}, seeds "
        f"{', '.join(map(str, arm.measured.figures['auc'].by_seed))}"
        for arm in evaluation.arms
    )
    yield "## Figures"
    yield "Mean ± standard deviation over seeds."
    yield tables.markdown(tables.figures(evaluation))
    if len(evaluation.arms) > 1:
        yield f"## Against {evaluation.reference}"
        yield tables.markdown(tables.gains(evaluation))
        yield "![gains](gains.png)"
    yield "## Calibration"
    yield "![reliability](reliability.png)"
    for metric in _SHOWN_BY_SLICE:
        yield f"## Slices, {tables.metric_name(metric)}"
        yield "–: fewer than 50 rows or 10 users, or only one class. Others: evaluation.json."
        yield tables.markdown(tables.slices(evaluation, metric))
    yield "![slices](slices.png)"
