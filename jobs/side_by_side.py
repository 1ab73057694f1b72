"""report: base, HEIN and KSER side by side: gains, costs, calibration, slices, ESFNet's weights.

    workspace/report/<name>-<fingerprint8>/report.md, report.json, *.png

Its figures are those of `evaluate`, which it runs first.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean

from lorecast.artifacts import Artifact, StageSpec, build, find, write_json
from lorecast.config import load_experiment
from lorecast.evaluation import tables
from lorecast.evaluation.results import ArmResult, Evaluation
from lorecast.evaluation.tables import NOTHING, Line
from lorecast.evaluation.uncertainty import RESAMPLES
from lorecast.jobs import evaluate, gates
from lorecast.jobs.arms import Arm, train_arms
from lorecast.jobs.console import Console

_EXTRACTORS = ("hein", "kser")


def run(
    words: Sequence[str],
    extra: Sequence[str],
    console: Console,
    out: Path | None = None,
    resamples: int = RESAMPLES,
) -> Path:
    """Reports on the experiment's arms and prints the tables; returns the artifact's folder.

    Arguments as for `evaluate.run`; without `extra`, HEIN and KSER both have an arm.
    """
    arms = train_arms(words, extra or _missing_extractors(words), console)
    evaluated = evaluate.evaluate(arms, console, resamples)
    evaluation = evaluate.read(evaluated)
    config = arms[0].pipeline.config
    spec = StageSpec(
        stage="report",
        name=config.name,
        identity={"arms": 1},
        inputs={"evaluation": evaluated.fingerprint},
    )
    workspace = config.compute.folder
    if (artifact := find(workspace, spec)) is None:
        with build(workspace, spec) as draft:
            _write(draft.path, arms, evaluated, evaluation)
        artifact = Artifact.open(draft.path)
    found = json.loads((artifact.path / "report.json").read_text(encoding="utf-8"))
    console.heading(f"lorecast report · {config.name}")
    for title, lines in found["tables"].items():
        console.table(title, lines)
    if out is not None:
        evaluate.copy(artifact.path, out)
    folder = out or artifact.path
    console.result(f"report: {folder / 'report.md'}", report=str(folder), **found)
    return artifact.path


def _missing_extractors(words: Sequence[str]) -> list[str]:
    """Arms for those of HEIN and KSER that the experiment does not train itself."""
    config = load_experiment(words)
    has_own = any(strategy != "base" for strategy in config.training.strategies)
    return [
        f"{name}: model.extractor={name} training.strategies=[all_parameters]"
        for name in _EXTRACTORS
        if not (has_own and config.model.extractor == name)
    ]


def _write(folder: Path, arms: Sequence[Arm], evaluated: Artifact, evaluation: Evaluation) -> None:
    for picture in evaluated.facts["pictures"]:
        shutil.copy(evaluated.path / picture, folder / picture)
    weighing = gates.with_gates(arms)
    sections: list[tuple[str, list[Line], list[str]]] = [
        (
            "How well the models predict clicks",
            main_table(evaluation),
            [p for p in ("gains.png", "reliability.png") if (folder / p).exists()],
        ),
        ("At what cost", cost_table(arms), []),
        ("AUC by slice", tables.slices(evaluation), ["slices.png"]),
    ]
    if weighing:
        pictures = list(_draw_gates(weighing, evaluation, folder))
        sections.append(
            ("ESFNet's mean weight on each factor", gates.gate_table(weighing), pictures)
        )
    parts = [f"# {evaluation.name}: {', '.join(arm.name for arm in arms)}", *_opening(evaluation)]
    for title, lines, pictures in sections:
        parts += [f"## {title}", tables.markdown(lines)]
        parts += [f"![{picture.removesuffix('.png')}]({picture})" for picture in pictures]
    (folder / "report.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    told = {title: lines for title, lines, _ in sections}
    write_json(folder / "report.json", {"evaluation": str(evaluated.path), "tables": told})


def _draw_gates(arms: Sequence[Arm], evaluation: Evaluation, folder: Path) -> Iterator[str]:
    """ESFNet's weights by slice, for slices that are large enough and not all rows."""
    measured = {
        (p.family, p.name) for p in evaluation.slices if 0 < p.rows < evaluation.rows and p.measured
    }
    test, parts = evaluate.slices_of(arms)
    shown = [part for part in parts if (part.family, part.name) in measured]
    if not shown:
        return
    for number, arm in enumerate(arms):
        picture = f"gates-{number}.png"
        gates.draw_slice_gates(arm, test, shown, folder / picture)
        yield picture


def _opening(evaluation: Evaluation) -> Iterator[str]:
    yield "\n".join(f"- **{arm.name}**: {arm.model}" for arm in evaluation.arms)
    yield (
        f"{evaluation.rows:,} test rows of {evaluation.users:,} users. ±: standard deviation over "
        f"seeds. Gains over {evaluation.reference}: pairs of models on the same rows; intervals "
        "and p when users are drawn anew, and over seeds. docs/evaluation.md tells more."
    )


def main_table(evaluation: Evaluation) -> list[Line]:
    """A line an arm: its figures, and its gain in AUC over the reference."""
    return [_main_line(arm, evaluation.reference) for arm in evaluation.arms]


def _main_line(arm: ArmResult, reference: str) -> Line:
    figures, gain = arm.measured.figures, arm.measured.gains.get("auc")
    return {
        "model": arm.name,
        "seeds": str(len(figures["auc"].by_seed)),
        **{
            tables.metric_name(metric): tables.of_seeds(figures[metric])
            for metric in ("auc", "gauc", "log_loss", "ece")
        },
        f"AUC − {reference}, 95 % over users": tables.gained(gain),
        "p": NOTHING if gain is None else tables.p_value(gain.p),
        "± over seeds": NOTHING if gain is None else tables.over_seeds(gain),
        "p (seeds)": (
            NOTHING if gain is None or gain.seeds_p is None else tables.p_value(gain.seeds_p)
        ),
    }


def cost_table(arms: Sequence[Arm]) -> list[Line]:
    """A line an arm: sizes, and means over seeds of what training took."""
    return [
        {
            "model": arm.name,
            "parameters": _count(_facts(arm, "parameters")),
            "trained": _count(_facts(arm, "trained_parameters")),
            "epochs": _count(_facts(arm, "epochs")),
            "training seconds": _count(_facts(arm, "seconds")),
            "rows/s": _count(_facts(arm, "rows_per_second")),
        }
        for arm in arms
    ]


def _facts(arm: Arm, name: str) -> list[float]:
    """What the models' manifests say; empty where they are older than the fact."""
    facts = [model.artifact.facts.get(name) for model in arm.trained.values()]
    return [float(fact) for fact in facts if fact is not None]


def _count(values: Sequence[float]) -> str:
    return f"{mean(values):,.0f}" if values else NOTHING
