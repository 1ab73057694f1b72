"""The endpoint as Ray Serve builds it by itself: for its own YAML and KubeRay's RayService.

import_path: lorecast.serve.application:build
args: {experiment: [mine.yaml, compute.workspace=/mnt/lorecast/workspace]}
"""

from pydantic import BaseModel, ConfigDict
from ray import serve

from lorecast.config import MAIN_ARM, load_experiment
from lorecast.lifecycle.mlflow_registry import open_registry
from lorecast.lifecycle.registry import champion_of
from lorecast.serve.deployment import bind
from lorecast.serve.following import Source, arm_sources


class Arguments(BaseModel):
    """What the YAML says under `args`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    experiment: tuple[str, ...] = ()
    """As on the command line: a file, then overrides. The workspace must be seen by all nodes."""
    model: str | None = None
    """models:/NAME@ALIAS or models:/NAME/NUMBER; none: the experiment's champion."""


def build(arguments: Arguments) -> serve.Application:
    """The application with the model that the registry names now, and from then on if by alias."""
    config = load_experiment(arguments.experiment)
    reference = arguments.model or champion_of(config)
    workspace = config.compute.folder.absolute()
    registry = open_registry(config)
    main = Source.named(config, registry, reference, workspace)
    sources = {MAIN_ARM: main, **arm_sources(config, registry, workspace)}
    return bind(sources, config.serving, tolerance=config.promotion.parity)
