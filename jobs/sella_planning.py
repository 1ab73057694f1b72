"""plan, for SeLLa: what its stages would read, take and hold, before a step is trained.

Needs no weights: where the language model or its tokenizer is not on this machine, the plan says
what it goes by. Nothing is downloaded.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from lorecast.artifacts import find
from lorecast.config import ExperimentConfig
from lorecast.data.dataset import Dataset
from lorecast.jobs.console import Console
from lorecast.jobs.sella_needs import StageNeed, StageNeeds
from lorecast.jobs.sella_plans import model_source
from lorecast.sella import sizes
from lorecast.sella.estimates import Memory, hours, training_passes
from lorecast.sella.methods import switches

_PARTS: Final = {
    "weights": "weights",
    "learnt": "adapters, tables; gradients, AdamW",
    "kept": "activations, kept",
    "anew": "activations, made anew",
    "logits": "logits of all tokens",
    "cache": "keys and values of a batch",
    "shared": "of them, of the shared beginning",
}


@dataclass(frozen=True, kw_only=True)
class Device:
    """What one worker computes on."""

    tflops: float
    """Its peak in the model's type, 10¹² FLOPs a second."""
    utilisation: float
    """Share of the peak that is reached."""


def run(config: ExperimentConfig, dataset: Dataset, console: Console, device: Device) -> None:
    """Prints the plan of an experiment with a section `sella`.

    Raises ConfigError or TrainingError for what would stop its training.
    """
    assert config.sella is not None
    has_model = any(switches(method).language_model for method in config.sella.methods)
    source, revision = model_source(config.sella), config.sella.revision
    found = sizes.find(source, revision) if has_model else None
    needs = StageNeeds(config, dataset, found)
    stages = needs.stages()
    console.heading(f"lorecast plan · {config.name}")
    if found is not None:
        model = needs.model.sizes
        console.note(
            f"{config.sella.model}: {model.parameters:,} parameters ({config.sella.dtype}), "
            f"{model.adapters:,} in adapters"
        )
        for note in found.notes:
            console.note(note)
        prompts = needs.prompts()
        console.table(
            "prompts with all their tokens",
            [
                {
                    "part": split,
                    "rows": f"{of.rows:,}",
                    "tokens": f"{of.tokens:,}",
                    "a row": f"{of.mean:,.0f}",
                    "longest": f"{of.longest:,}",
                    "computed, scoring": f"{of.read:,}",
                }
                for split, of in prompts.items()
            ],
        )
    workspace = needs.plans.workspace
    missing = [sum(find(workspace, spec) is None for spec in s.specs.values()) for s in stages]
    spent_h = [
        hours(stage.need.flops, device.tflops, device.utilisation, stage.need.workers)
        for stage in stages
    ]
    lines = [
        {
            "stage": stage.stage,
            "of": stage.of,
            "missing": f"{count} of {len(stage.specs)}",
            "rows": f"{stage.need.rows:,}",
            "tokens": f"{stage.need.tokens:,}",
            "steps": "–" if stage.need.steps is None else f"{stage.need.steps:,}",
            "PFLOP": _number(stage.need.flops / 1e15),
            "workers": str(stage.need.workers),
            "hours": _number(each_h),
        }
        for stage, count, each_h in zip(stages, missing, spent_h, strict=True)
    ]
    console.table("stages; rows, tokens, steps and hours of one seed", lines)
    largest = _largest(stages)
    if largest:
        console.table("memory of one worker, GiB", list(_memory_lines(largest)))
    console.note(
        f"assumed: {device.tflops:g} TFLOP/s a worker, {device.utilisation:.0%} of it reached "
        "(`lorecast plan --tflops --utilisation`); 2 FLOPs a weight and token forward, "
        f"{training_passes(config.sella)} times that where gradients pass; stage 2.2 to its last "
        "epoch; memory without sella.sharding"
    )
    total_h = sum(each_h * count for each_h, count in zip(spent_h, missing, strict=True))
    console.result(
        f"{sum(missing)} of {sum(len(s.specs) for s in stages)} artifacts are missing: "
        f"{_number(total_h)} hours",
        missing=sum(missing),
        hours=total_h,
        assumed=asdict(device),
        memory_bytes={stage: asdict(memory) for stage, memory in largest.items()},
        notes=list(found.notes) if found is not None else [],
    )


def _largest(stages: Sequence[StageNeed]) -> dict[str, Memory]:
    """For each kind of stage, the memory of what needs most."""
    largest: dict[str, Memory] = {}
    for stage in stages:
        memory, most = stage.need.memory, largest.get(stage.stage)
        if memory is not None and (most is None or memory.all_kept > most.all_kept):
            largest[stage.stage] = memory
    return largest


def _memory_lines(largest: dict[str, Memory]) -> Iterator[dict[str, str]]:
    """A line a part, a column a stage."""
    for part, told in _PARTS.items():
        yield {"": told, **{stage: _gib(getattr(m, part)) for stage, m in largest.items()}}
    yield {"": "all, activations kept", **{s: _gib(m.all_kept) for s, m in largest.items()}}
    yield {"": "all, made anew", **{s: _gib(m.all_anew) for s, m in largest.items()}}


def _gib(amount: int) -> str:
    return f"{amount / 2**30:,.2f}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
