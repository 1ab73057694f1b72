"""The short report that ends `lorecast run`: printed, and kept as Markdown, SVG and plots."""

import io
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pyarrow.parquet as pq
from rich.console import Console as RichConsole
from rich.console import Group
from rich.markdown import Markdown
from rich.padding import Padding

from lorecast.artifacts import Artifact, StageSpec, build, find
from lorecast.config import ModelConfig, Strategy
from lorecast.data.dataset import Dataset
from lorecast.evaluation import tables
from lorecast.evaluation.uncertainty import paired_bootstrap
from lorecast.jobs.arms import model_name
from lorecast.jobs.pipeline import Pipeline, Trained

_FIGURES = (
    ("valid AUC", "valid", "auc"),
    ("test AUC", "test", "auc"),
    ("LogLoss", "test", "log_loss"),
    ("GAUC", "test", "gauc"),
)
_WIDTH = 100
_FONT_FACE = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)
"""Web fonts that Rich would load from elsewhere; the reader's own monospace will do."""


@dataclass(frozen=True)
class Difference:
    """Test AUC of a strategy minus that of `base`, same seed; a 95 % interval over users."""

    strategy: str
    seed: int
    value: float
    low: float
    high: float


def run(pipeline: Pipeline, invocation: str) -> Path:
    """Prints the report and returns its folder. `invocation`: the words after `lorecast run`."""
    trained, registered = pipeline.train(), pipeline.register()
    config = pipeline.config
    spec = StageSpec(
        stage="report",
        name=config.name,
        identity={"layout": 1, "invocation": invocation},
        inputs={
            "registered": registered.fingerprint,
            **{model.label: model.artifact.fingerprint for model in trained},
        },
    )
    workspace = config.compute.folder
    if (artifact := find(workspace, spec)) is None:
        with build(workspace, spec) as draft:
            _write(draft.path, pipeline, invocation)
        artifact = Artifact.open(draft.path)
    pipeline.console.result(
        "", report=str(artifact.path), **json.loads((artifact.path / "report.json").read_text())
    )
    if not pipeline.console.as_json:
        RichConsole(highlight=False).print(_render((artifact.path / "report.md").read_text()))
    return artifact.path


def _write(folder: Path, pipeline: Pipeline, invocation: str) -> None:
    trained, registered = pipeline.train(), pipeline.register()
    differences = list(_differences(trained))
    knowledge = _knowledge(trained, pipeline)
    text = "\n\n".join(
        part
        for part in (
            *_told(knowledge),
            *_compared(pipeline.config.model, trained, differences),
            *_next(pipeline.dataset, registered, invocation),
        )
    )
    for name in ("curves.png", "gates.png"):
        plot = pipeline.best().artifact.path / name
        if plot.exists():
            shutil.copy(plot, folder / name)
    (folder / "report.md").write_text(text + "\n", encoding="utf-8")
    record = RichConsole(record=True, width=_WIDTH, file=io.StringIO(), highlight=False)
    record.print(_render(text))
    svg = record.export_svg(title=f"lorecast run {invocation}".strip())
    (folder / "report.svg").write_text(_FONT_FACE.sub("", svg), encoding="utf-8")
    (folder / "report.json").write_text(
        json.dumps(
            {
                "models": [
                    {"strategy": m.strategy, "seed": m.seed, **m.artifact.facts["metrics"]}
                    for m in trained
                ],
                "differences": [vars(difference) for difference in differences],
                "registered": dict(registered.facts),
            }
        ),
        encoding="utf-8",
    )


def _render(text: str) -> Any:
    return Group(Padding(Markdown(text), (1, 2)))


def _knowledge(trained: Sequence[Trained], pipeline: Pipeline) -> Artifact | None:
    return None if all(m.strategy == "base" for m in trained) else pipeline.generate()


def _differences(trained: Sequence[Trained]) -> Iterator[Difference]:
    base = {model.seed: model for model in trained if model.strategy == "base"}
    for model in trained:
        if model.strategy == "base" or model.seed not in base:
            continue
        ours, theirs = (_test_scores(m) for m in (model, base[model.seed]))
        value, low, high, _ = paired_bootstrap(
            ours["user_row"],
            ours["label"],
            ours["score"],
            theirs["score"],
        )
        yield Difference(model.strategy, model.seed, value, low, high)


def _test_scores(model: Trained) -> dict[str, Any]:
    table = pq.read_table(model.artifact.path / "scores.parquet")
    return {name: table[name].to_numpy() for name in ("user_row", "label", "score")}


def _told(knowledge: Artifact | None) -> Iterator[str]:
    if knowledge is None:
        return
    facts = knowledge.facts
    if facts["samples"]:
        yield "## What the language model was asked, and said"
        for sample in facts["samples"]:
            prompt = " ".join(sample["prompt"].split())
            yield f"> {prompt}\n>\n> **{sample['answer'].strip()}**"
    texts, fields = facts["counts"].get("ok", 0), len(facts["fields"])
    read, written = facts["prompt_tokens"], facts["output_tokens"]
    yield f"{texts:,} texts in {fields} fields of knowledge; tokens: {read:,} in, {written:,} out."


def _compared(
    model: ModelConfig, trained: Sequence[Trained], differences: Sequence[Difference]
) -> Iterator[str]:
    yield "## How well the models predict clicks"
    yield tables.markdown([_line(model, strategy, trained) for strategy in _strategies(trained)])
    for difference in differences:
        yield (
            f"Test AUC with knowledge minus without (seed {difference.seed}): "
            f"**{difference.value:+.4f}**, 95 % interval over users "
            f"[{difference.low:+.4f}, {difference.high:+.4f}]"
        )


def _strategies(trained: Sequence[Trained]) -> list[Strategy]:
    return list(dict.fromkeys(each.strategy for each in trained))


def _line(model: ModelConfig, strategy: Strategy, trained: Sequence[Trained]) -> tables.Line:
    models = [each for each in trained if each.strategy == strategy]
    return {
        "model": model_name(model, strategy),
        **{
            title: _mean_std([each.metric(split, name) for each in models])
            for title, split, name in _FIGURES
        },
        "parameters": f"{models[0].artifact.facts['parameters']:,}",
    }


def _mean_std(values: Sequence[float]) -> str:
    return tables.mean_std(mean(values), stdev(values) if len(values) > 1 else None)


def _next(dataset: Dataset, registered: Artifact, invocation: str) -> Iterator[str]:
    facts = registered.facts
    yield (
        f"## Registered: {facts['model_name']} version {facts['version']} "
        f"({', '.join(facts['aliases'])})"
    )
    user = dataset.users()["id"][0].as_py()
    items = dataset.items()["id"][:3].to_pylist()
    body = json.dumps({"user_id": user, "item_ids": items})
    serve = f"lorecast serve {invocation}".strip()
    yield (
        f"```sh\n{serve}\ncurl -s localhost:8000/v1/score -H 'content-type: application/json' \\\n"
        f"  -d '{body}'\n```"
    )
