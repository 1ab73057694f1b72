"""The `lorecast` command. Imports what a command needs when it is called, so help is instant.

Exit codes: 0 done, 1 and up as drawn in `lorecast.errors`, 130 interrupted. Commands of other rooms
join through the entry point group `lorecast.commands`.
"""

import shlex
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from lorecast.config import ExperimentConfig
    from lorecast.jobs.console import Console

app = typer.Typer(
    name="lorecast",
    help="LLM knowledge for recommenders, on Ray: generate, select, train, promote, serve.",
    epilog="Start with `lorecast run`. Own data: `lorecast init FOLDER`, then `lorecast run FILE`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
world_app = typer.Typer(help="The embedded world and its tiny language model.")
app.add_typer(world_app, name="world")

Experiment = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[CONFIG] [KEY=VALUE]...",
        help="experiment file (none: the embedded world) and overrides, e.g. training.seeds=[0,1]",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="one JSON object a line, for machines")]


def _open(experiment: list[str] | None, as_json: bool) -> "tuple[ExperimentConfig, Console]":
    from lorecast.config import load_experiment
    from lorecast.jobs.console import Console

    return load_experiment(experiment or []), Console(as_json=as_json)


@app.command(epilog="Example: `lorecast run configs/ml-1m.yaml dataset.path=DIR`")
def run(experiment: Experiment = None, as_json: Json = False) -> None:
    """Run all stages: prepare, generate, encode, train, register; ends in a report.

    Finished stages are cached; interrupted ones resume.
    """
    from lorecast.jobs import pipeline

    pipeline.run(*_open(experiment, as_json), invocation=shlex.join(experiment or []))


@app.command(epilog="Example: `lorecast prepare mine.yaml dataset.history_length=20`")
def prepare(experiment: Experiment = None, as_json: Json = False) -> None:
    """Turn interactions into samples with histories (Parquet)."""
    from lorecast.jobs import pipeline

    pipeline.Pipeline(*_open(experiment, as_json)).prepare()


@app.command(epilog="Example: `lorecast generate mine.yaml compute.engines=4`")
def generate(experiment: Experiment = None, as_json: Json = False) -> None:
    """Ask the LLM for knowledge, or import texts, into the knowledge store."""
    from lorecast.jobs import pipeline

    pipeline.Pipeline(*_open(experiment, as_json)).generate()


@app.command(epilog="Example: `lorecast encode mine.yaml encoding.dtype=bfloat16`")
def encode(experiment: Experiment = None, as_json: Json = False) -> None:
    """Encode the texts to vectors."""
    from lorecast.jobs import pipeline

    pipeline.Pipeline(*_open(experiment, as_json)).encode()


@app.command(epilog="Example: `lorecast train mine.yaml training.seeds=[0,1,2,3,4]`")
def train(experiment: Experiment = None, as_json: Json = False) -> None:
    """Train every strategy and seed of the experiment."""
    from lorecast.jobs import pipeline

    pipeline.Pipeline(*_open(experiment, as_json)).train()


@app.command(epilog="Example: `lorecast init ./tables --output mine.yaml`")
def init(
    path: Annotated[Path, typer.Argument(help="folder with Parquet or CSV tables")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="file to write; never overwritten")
    ] = Path("lorecast.yaml"),
) -> None:
    """Look at a folder of tables and write a commented experiment for them."""
    from lorecast.jobs.console import Console
    from lorecast.jobs.init import init as write

    write(path, output)
    Console().result(f"wrote {output}; look it over, then: lorecast run {output}")


class _ConfigHelp(TyperCommand):
    """Help that lists every key with its default and description."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        super().format_help(ctx, formatter)
        from lorecast.config import describe_fields

        for key, default, text in describe_fields():
            sys.stdout.write(f"  {key} = {default}\n      {text}\n")


@app.command(cls=_ConfigHelp, epilog="Example: `lorecast config > mine.yaml`")
def config(experiment: Experiment = None) -> None:
    """Print the whole experiment as YAML, defaults and overrides included."""
    from lorecast.config import dump_config

    sys.stdout.write(dump_config(_open(experiment, False)[0]))


@world_app.command("build", epilog="Example: `lorecast world build --seed 1 ./my-world`")
def world_build(
    output: Annotated[Path, typer.Argument(help="folder for the tables and llm/; must not exist")],
    seed: Annotated[int, typer.Option(help="seed of the world")] = 7,
    as_json: Json = False,
) -> None:
    """Rebuild catalogue and tiny LLM from a seed (some ten minutes on two cores)."""
    from lorecast.jobs.console import Console
    from lorecast.world.build import build
    from lorecast.world.llm import Progress, Recipe

    console = Console(as_json=as_json)
    with console.progress("training the LLM", Recipe().num_steps) as task:

        def advance(progress: Progress) -> None:
            task.advance(1, loss=progress.loss)

        card = build(output, seed, on_progress=advance)
    console.result(f"wrote {output}: {card['parameters']:,} parameters", **card)


def main() -> None:
    """Entry point: runs the command and turns errors into a sentence and an exit code."""
    for command in entry_points(group="lorecast.commands"):
        app.command(command.name)(command.load())
    try:
        app(standalone_mode=True)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; run the same command again to go on\n")
        sys.exit(130)
    except Exception as error:
        from lorecast.jobs.cluster import our_error

        known = our_error(error)
        if known is None:
            raise
        sys.stderr.write(f"error: {known}\n")
        sys.exit(known.exit_code)
