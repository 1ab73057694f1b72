"""Arms to compare: an experiment's own strategies, and the same experiment with overrides.

An extra arm reads `NAME: override override …`, e.g. `hein: model.extractor=hein`. What is not yet
trained is trained.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from lorecast.config import ExperimentConfig, ModelConfig, Strategy, load_experiment
from lorecast.errors import ConfigError
from lorecast.jobs.console import Console
from lorecast.jobs.pipeline import Pipeline, Trained
from lorecast.sella.methods import about
from lorecast.training.recipe import CHOSEN_ON_TEST

_BETWEEN = re.compile(r"[\s,]+(?=[A-Za-z_][\w.]*=)")
"""Parts overrides; commas and spaces inside a value stay."""


@dataclass(frozen=True)
class Arm:
    """One strategy of one experiment, trained with each of its seeds."""

    name: str
    strategy: Strategy
    pipeline: Pipeline
    trained: Mapping[int, Trained]
    model: str
    """What it is, for people: backbone and extractor, or a method."""

    @property
    def fingerprints(self) -> tuple[str, ...]:
        return tuple(model.artifact.fingerprint for model in self.trained.values())


def train_arms(words: Sequence[str], extra: Sequence[str], console: Console) -> tuple[Arm, ...]:
    """All arms, trained; the reference first: the experiment's `base`, if it has one.

    `words`: `[CONFIG] [KEY=VALUE]...`; `extra`: further arms. An arm whose very models stand in an
    earlier one is left out with a note. Raises ConfigError for an arm that cannot be read, and
    what its stages raise.
    """
    named = [_parse(text) for text in extra]
    if repeated := {name for name, _ in named if [n for n, _ in named].count(name) > 1}:
        raise ConfigError(f"--arm {sorted(repeated)[0]}: two arms have this name; rename one")
    configs = [("", load_experiment(words))]
    configs += [(name, load_experiment([*words, *overrides])) for name, overrides in named]
    arms: list[Arm] = []
    for name, config in configs:
        console.heading(f"arm {name}" if name else config.name)
        for arm in arms_of(name, config, console):
            same = next((a for a in arms if a.fingerprints == arm.fingerprints), None)
            if same:
                console.note(f"{arm.name} has the same models as {same.name}: shown once")
            elif any(a.name == arm.name for a in arms):
                raise ConfigError(
                    f"--arm {name}: the experiment's own arm has this name; rename it"
                )
            else:
                arms.append(arm)
    return tuple(arms)


def model_name(model: ModelConfig, strategy: Strategy) -> str:
    """Backbone and extractor, for people."""
    backbone = model.backbone if ":" in model.backbone else model.backbone.upper()
    extractor = model.extractor.upper()
    taken = "all parameters" if model.extractor_from is None else "trained with another model"
    form = "" if model.injection == "residual" else f", {model.injection}"
    names: dict[Strategy, str] = {
        "base": f"{backbone} (base)",
        "all_parameters": f"{backbone} + {extractor} ({taken})",
        "extractor_only": f"{backbone}, frozen, + {extractor} (extractor only{form})",
    }
    return names[strategy]


def _parse(text: str) -> tuple[str, tuple[str, ...]]:
    name, colon, overrides = text.partition(":")
    words = tuple(_BETWEEN.split(overrides.strip(" ,"))) if overrides.strip(" ,") else ()
    if not colon or not name.strip() or "=" in name or not all("=" in word for word in words):
        raise ConfigError(
            f"--arm {text!r}: write it as 'NAME: override override', e.g. "
            "'hein: model.extractor=hein training.strategies=[all_parameters]'"
        )
    return name.strip(), words


def arms_of(name: str, config: ExperimentConfig, console: Console) -> Iterator[Arm]:
    """The experiment's own arms, trained; `name` is the arm's that brought it, or empty."""
    pipeline = Pipeline(config, console)
    trained = pipeline.train()
    if config.sella is not None:
        for method in config.sella.methods:
            title = f"{name} {method}" if name else method
            models = {m.seed: m for m in trained if m.artifact.facts["method"] == method}
            yield Arm(title, "base", pipeline, models, about(method))
        return
    strategies = sorted(dict.fromkeys(config.training.strategies), key=lambda s: s != "base")
    for strategy in strategies:
        yield Arm(
            _arm_name(name, config, strategy),
            strategy,
            pipeline,
            {model.seed: model for model in trained if model.strategy == strategy},
            model_name(config.model, strategy),
        )


def _arm_name(name: str, config: ExperimentConfig, strategy: Strategy) -> str:
    """The experiment's own arms are named by what they are: base, kser, kser extractor_only."""
    mark = f" ({CHOSEN_ON_TEST})" if config.training.protocol == "kar" else ""
    return f"{_plain_arm_name(name, config, strategy)}{mark}"


def _plain_arm_name(name: str, config: ExperimentConfig, strategy: Strategy) -> str:
    if strategy == "base":
        return f"{name} base" if name and len(config.training.strategies) > 1 else name or "base"
    name = name or config.model.extractor
    others = [each for each in dict.fromkeys(config.training.strategies) if each != "base"]
    is_told = strategy == "all_parameters" or len(others) == 1
    return name if is_told else f"{name} {strategy}"
