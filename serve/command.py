"""`lorecast serve`. Joins the `lorecast` command through an entry point; imports when called."""

from pathlib import Path
from typing import Annotated

import typer


def serve(
    experiment: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CONFIG] [KEY=VALUE]...",
            help="experiment file (none: the embedded world) and overrides, e.g. serving.port=80",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="models:/NAME@ALIAS or models:/NAME/NUMBER; default: the champion"),
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="serve this bundle's folder instead of a registered model")
    ] = None,
    host: Annotated[str | None, typer.Option(help="address; default: serving.host")] = None,
    port: Annotated[
        int | None, typer.Option(help="TCP port; default: serving.port", min=1, max=65535)
    ] = None,
) -> None:
    """Answer HTTP requests with the experiment's champion until Ctrl-C.

    `lorecast promote` and `lorecast rollback` are followed without a pause; a version that is named
    by its number, or a bundle, stays.

    POST /v1/score and /v1/rank, GET /v1/model and /healthz; /docs describes them. GET / is a page
    that shows the model to a person, /metrics is for Prometheus. With LORECAST_SERVE_TOKEN set,
    clients must send it: `Authorization: Bearer TOKEN`.

    Examples: `lorecast serve` · `lorecast serve mine.yaml --port 8080` ·
    `lorecast serve --model models:/lorecast-world/3` · `lorecast serve --bundle FOLDER`
    """
    from lorecast.config import load_experiment
    from lorecast.serve import run

    words = list(experiment or [])
    words += [f"serving.host={host}"] if host else []
    words += [f"serving.port={port}"] if port else []
    run.run(load_experiment(words), model=model, bundle=bundle)
