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

from lorecast.jobs.submit import BEFORE_COMMAND, jobs_app, submit

if TYPE_CHECKING:
    from lorecast.config import ExperimentConfig
    from lorecast.jobs.console import Console
    from lorecast.jobs.plan import Rates

_CLUSTERS = "50,100,200,500,1000"
_TFLOPS, _UTILISATION = 312.0, 0.45
"""An A100's peak in bfloat16, and a usual share of it."""

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
knowledge_app = typer.Typer(help="What the knowledge store holds.")
app.add_typer(knowledge_app, name="knowledge")
factors_app = typer.Typer(help="Factor sets: what is asked about items and users.")
app.add_typer(factors_app, name="factors")
app.add_typer(jobs_app, name="jobs")

Experiment = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[CONFIG] [KEY=VALUE]...",
        help="experiment file (none: the embedded world) and overrides, e.g. training.seeds=[0,1]",
        show_default=False,
    ),
]
Arms = Annotated[
    list[str] | None,
    typer.Option(
        "--arm",
        metavar="'NAME: KEY=VALUE ...'",
        help="a further arm: the same experiment with overrides; may be given several times",
        show_default=False,
    ),
]
Out = Annotated[Path | None, typer.Option(help="folder that gets a copy of the files")]
Resamples = Annotated[
    int, typer.Option(min=100, help="how often users are drawn anew for the intervals")
]
PlanOnly = Annotated[
    bool, typer.Option("--plan", help="only say what it would take, as `lorecast plan` does")
]
Json = Annotated[bool, typer.Option("--json", help="one JSON object a line, for machines")]


def _open(experiment: list[str] | None, as_json: bool) -> "tuple[ExperimentConfig, Console]":
    from lorecast.config import load_experiment
    from lorecast.jobs.console import Console

    return load_experiment(experiment or []), Console(as_json=as_json)


@app.command(epilog="Example: `lorecast run configs/ml-1m.yaml dataset.path=DIR`")
def run(experiment: Experiment = None, plan: PlanOnly = False, as_json: Json = False) -> None:
    """Run all stages: prepare, generate, encode, train, register; ends in a report.

    Finished stages are cached; interrupted ones resume. An experiment with a section `sella` takes
    the stages of SeLLa-Rec instead: configs/world-sella.yaml.
    """
    from lorecast.jobs import pipeline

    if plan:
        _plan(experiment, as_json)
    else:
        pipeline.run(*_open(experiment, as_json), invocation=shlex.join(experiment or []))


@app.command(epilog="Example: `lorecast prepare mine.yaml dataset.history_length=20`")
def prepare(experiment: Experiment = None, as_json: Json = False) -> None:
    """Turn interactions into samples with histories (Parquet)."""
    from lorecast.jobs import pipeline

    pipeline.Pipeline(*_open(experiment, as_json)).prepare()


@app.command(epilog="Example: `lorecast plan mine.yaml --clusters 100,1000 --tokens-per-s 2500`")
def plan(
    experiment: Experiment = None,
    clusters: Annotated[
        str, typer.Option(help="numbers of groups to compare with, comma-separated")
    ] = _CLUSTERS,
    tokens_per_s: Annotated[
        float | None, typer.Option(help="written tokens a second of one GPU or engine")
    ] = None,
    price_per_hour: Annotated[float | None, typer.Option(help="of that GPU")] = None,
    price_in: Annotated[float | None, typer.Option(help="of a million prompt tokens")] = None,
    price_out: Annotated[float | None, typer.Option(help="of a million written tokens")] = None,
    tflops: Annotated[
        float, typer.Option(min=1e-6, help="peak of a worker's device, 10¹² FLOPs a second (sella)")
    ] = _TFLOPS,
    utilisation: Annotated[
        float, typer.Option(min=1e-6, max=1.0, help="share of that peak that is reached (sella)")
    ] = _UTILISATION,
    as_json: Json = False,
) -> None:
    """Say what generation, or SeLLa-Rec, would take, before a token or a step is spent.

    Of an experiment with a section `sella`: what its stages would read, compute and hold in memory,
    before a step is trained and without the language model's weights.
    """
    from lorecast.jobs.plan import Rates

    rates = Rates(
        tokens_per_s=tokens_per_s,
        price_per_hour=price_per_hour,
        price_in=price_in,
        price_out=price_out,
    )
    _plan(experiment, as_json, rates, clusters, tflops, utilisation)


def _plan(
    experiment: list[str] | None,
    as_json: bool,
    rates: "Rates | None" = None,
    clusters: str = _CLUSTERS,
    tflops: float = _TFLOPS,
    utilisation: float = _UTILISATION,
) -> None:
    from lorecast.errors import ConfigError
    from lorecast.jobs import plan as planning
    from lorecast.jobs import sella_planning
    from lorecast.jobs.pipeline import Pipeline

    try:
        numbers = [int(number) for number in clusters.split(",") if number.strip()]
    except ValueError:
        raise ConfigError(f"--clusters {clusters}: give whole numbers, e.g. 100,1000") from None
    pipeline = Pipeline(*_open(experiment, as_json))
    config, dataset, console = pipeline.config, pipeline.dataset, pipeline.console
    if config.sella is not None:
        device = sella_planning.Device(tflops=tflops, utilisation=utilisation)
        sella_planning.run(config, dataset, console, device)
    else:
        planning.run(config, dataset, console, rates or planning.Rates(), numbers)


@app.command(epilog="Example: `lorecast generate mine.yaml compute.engines=4`")
def generate(
    experiment: Experiment = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="ask again for what failed in a finished run")
    ] = False,
    as_json: Json = False,
) -> None:
    """Ask the LLM for knowledge, or import texts, into the knowledge store."""
    from lorecast.jobs import pipeline

    pipeline.Pipeline(*_open(experiment, as_json)).generate(retry_failed=retry_failed)


@app.command(epilog="Example: `lorecast audit mine.yaml`")
def audit(experiment: Experiment = None, as_json: Json = False) -> None:
    """Look at the knowledge itself: lengths, duplicates, redundancy, refusals; ends in a report."""
    from lorecast.jobs import audit as auditing
    from lorecast.jobs.pipeline import Pipeline

    pipeline = Pipeline(*_open(experiment, as_json))
    auditing.run(pipeline.config, pipeline.dataset, pipeline.generate(), pipeline.console)


@knowledge_app.command("show", epilog="Example: `lorecast knowledge show --item 42 mine.yaml`")
def knowledge_show(
    experiment: Experiment = None,
    item: Annotated[str | None, typer.Option(help="id of an item")] = None,
    user: Annotated[str | None, typer.Option(help="id of a user")] = None,
    as_json: Json = False,
) -> None:
    """Print what is known about an item or a user, and where it comes from."""
    from lorecast.jobs import show
    from lorecast.jobs.pipeline import Pipeline

    pipeline = Pipeline(*_open(experiment, as_json))
    show.run(pipeline.config, pipeline.dataset, pipeline.console, item=item, user=user)


@knowledge_app.command("compact", epilog="Example: `lorecast knowledge compact mine.yaml`")
def knowledge_compact(experiment: Experiment = None, as_json: Json = False) -> None:
    """Rewrite the store's many small files as few large ones; loses no answer."""
    from lorecast.knowledge.store import FOLDER, KnowledgeStore

    config, console = _open(experiment, as_json)
    folder = config.compute.folder / FOLDER
    replaced = KnowledgeStore(folder).compact()
    console.result(f"{folder}: {replaced:,} files rewritten", replaced=replaced)


@factors_app.command(
    "suggest", epilog='Example: `lorecast factors suggest "news for commuters" -o my-factors`'
)
def factors_suggest(
    scenario: Annotated[str, typer.Argument(help="what is recommended to whom, in a sentence")],
    output: Annotated[Path, typer.Option("--output", "-o", help="folder to write, must be new")],
    experiment: Experiment = None,
    as_json: Json = False,
) -> None:
    """Ask the LLM which factors matter, and write a factor set to edit.

    Takes an instruction-tuned model: `knowledge.llm.model=FOLDER` or an endpoint.
    """
    from lorecast.jobs import engines
    from lorecast.jobs.suggest import suggest

    words = experiment or []
    named = int(bool(words) and "=" not in words[0])
    longer = ["knowledge.llm.max_model_len=4096", "knowledge.llm.max_tokens=2048"]
    config, console = _open([*words[:named], *longer, *words[named:]], as_json)
    factor_set = suggest(scenario, output, lambda: engines.start_here(config))
    names = ", ".join(factor.name for factor in factor_set.factors("item"))
    console.result(f"wrote {output} (items: {names}); edit it, then: factor_set: {output}")


@app.command(epilog="Example: `lorecast encode mine.yaml encoding.dtype=bfloat16`")
def encode(experiment: Experiment = None, as_json: Json = False) -> None:
    """Encode the texts to vectors."""
    from lorecast.jobs import pipeline

    pipeline.Pipeline(*_open(experiment, as_json)).encode()


@app.command(epilog="Example: `lorecast train mine.yaml training.seeds=[0,1,2,3,4]`")
def train(experiment: Experiment = None, plan: PlanOnly = False, as_json: Json = False) -> None:
    """Train every strategy and seed of the experiment."""
    from lorecast.jobs import pipeline

    if plan:
        _plan(experiment, as_json)
    else:
        pipeline.Pipeline(*_open(experiment, as_json)).train()


@app.command(epilog="Example: `lorecast register mine.yaml`, once MLflow answers again")
def register(experiment: Experiment = None, as_json: Json = False) -> None:
    """Register the best trained model in MLflow; what is missing before runs first.

    The last step of `lorecast run` by itself: for when MLflow was away. A model that is registered
    already is `cached`.
    """
    from lorecast.jobs import pipeline

    pipeline.Pipeline(*_open(experiment, as_json)).register()


@app.command(
    epilog="Example: `lorecast tune mine.yaml "
    "'training.learning_rate={loguniform: [1e-4, 1e-2]}' tune.trials=30`"
)
def tune(experiment: Experiment = None, as_json: Json = False) -> None:
    """Search for values that the experiment leaves open; train and register the best model.

    A search space stands in the value's place: loguniform, uniform or int [LOW, HIGH], or choice
    [A, B, ...]. The validation part decides. An interrupted search goes on.
    """
    from lorecast.config import load_search
    from lorecast.jobs import tune as tuning
    from lorecast.jobs.console import Console

    tuning.run(load_search(experiment or []), Console(as_json=as_json))


@app.command(
    epilog="Example: `lorecast evaluate mine.yaml training.seeds=[0,1,2] "
    "--arm 'hein: model.extractor=hein training.strategies=[all_parameters]'`"
)
def evaluate(
    experiment: Experiment = None,
    arm: Arms = None,
    out: Out = None,
    resamples: Resamples = 1000,
    as_json: Json = False,
) -> None:
    """Compare models on the test part: metrics, slices, calibration, with intervals.

    The experiment's strategies are arms; `base` is what the others are compared with. Trains
    what is missing.
    """
    from lorecast.jobs import evaluate as evaluating
    from lorecast.jobs.console import Console

    evaluating.run(experiment or [], arm or [], Console(as_json=as_json), out, resamples)


@app.command(epilog="Example: `lorecast report mine.yaml training.seeds=[0,1,2] --out report`")
def report(
    experiment: Experiment = None,
    arm: Arms = None,
    out: Out = None,
    resamples: Resamples = 1000,
    as_json: Json = False,
) -> None:
    """Lay base, HEIN and KSER side by side: gains, costs, calibration, slices, ESFNet's weights.

    `--arm` replaces the extractor that the experiment does not have (HEIN or KSER).
    """
    from lorecast.jobs import side_by_side
    from lorecast.jobs.console import Console

    side_by_side.run(experiment or [], arm or [], Console(as_json=as_json), out, resamples)


@app.command(
    epilog="Examples: `lorecast latency mine.yaml` · `lorecast latency mine.yaml --llm-items 100 "
    "--out latency` · `lorecast latency mine.yaml --llm-requests 0`"
)
def latency(
    experiment: Experiment = None,
    items: Annotated[int, typer.Option(min=1, help="candidates of a request")] = 100,
    requests: Annotated[
        int, typer.Option(min=1, help="requests of each way but LLM online")
    ] = 1000,
    llm_items: Annotated[
        int, typer.Option(min=1, help="candidates where texts are written for the request")
    ] = 5,
    llm_requests: Annotated[
        int, typer.Option(min=0, help="such requests; 0: the LLM is not asked")
    ] = 5,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Time a request with the LLM online, the extractor online, prestored, and without knowledge.

    The experiment's best model with knowledge scores one user's candidates in this process, with
    one thread. Also what each way stores. Trains what is missing.
    """
    from lorecast.jobs import latency as measuring
    from lorecast.jobs.ways import Trial

    config, console = _open(experiment, as_json)
    trial = Trial(items=items, requests=requests, llm_items=llm_items, llm_requests=llm_requests)
    measuring.run(config, trial, console, out)


@app.command(epilog="Example: `lorecast rerank mine.yaml reranking.model=prm training.seeds=[0,1]`")
def rerank(experiment: Experiment = None, as_json: Json = False) -> None:
    """Train re-rankers of whole lists (DLCM, PRM, SetRank), with and without knowledge."""
    from lorecast.jobs import rerank as reranking

    reranking.run(*_open(experiment, as_json))


@app.command(epilog="Example: `lorecast promote mine.yaml promotion.requires=not_worse`")
def promote(
    experiment: Experiment = None,
    version: Annotated[
        int | None, typer.Option(help="version to promote; default: the challenger")
    ] = None,
    force: Annotated[
        str | None, typer.Option(metavar="REASON", help="promote without the gate, and say why")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare the challenger with the champion, and let it take over if the gate agrees.

    Exit code 10: the champion stays. The section `promotion` sets the limits; the evidence goes to
    the registry.
    """
    from lorecast.jobs import promote as promoting

    config, console = _open(experiment, as_json)
    promoting.promote(config, console, version=version, force=force)


@app.command(epilog="Example: `lorecast rollback mine.yaml --reason 'fewer orders since noon'`")
def rollback(
    experiment: Experiment = None,
    reason: Annotated[str, typer.Option(help="why, for the history")] = "",
    as_json: Json = False,
) -> None:
    """Make the version that served before the champion again; no gate."""
    from lorecast.jobs import promote as promoting

    promoting.rollback(*_open(experiment, as_json), reason=reason)


@app.command(epilog="Example: `lorecast history mine.yaml`")
def history(experiment: Experiment = None, as_json: Json = False) -> None:
    """List all promotions, refusals and rollbacks: when, who and why."""
    from lorecast.jobs import promote as promoting

    promoting.history(*_open(experiment, as_json))


@app.command(
    epilog="Example: `lorecast refresh mine.yaml --interactions today.parquet "
    "--items new-items.parquet`"
)
def refresh(
    experiment: Experiment = None,
    interactions: Annotated[
        Path | None,
        typer.Option(help="new clicks: Parquet or CSV with the experiment's columns"),
    ] = None,
    items: Annotated[Path | None, typer.Option(help="new or changed items, likewise")] = None,
    users: Annotated[Path | None, typer.Option(help="new or changed users, likewise")] = None,
    model: Annotated[
        str | None,
        typer.Option(help="models:/NAME@ALIAS or models:/NAME/NUMBER; default: the champion"),
    ] = None,
    serve: Annotated[
        bool, typer.Option("--serve/--no-serve", help="make it the champion, or only register it")
    ] = True,
    as_json: Json = False,
) -> None:
    """Let new clicks, users and items join the model that serves, without training.

    Histories go on; knowledge is generated and encoded of what is new alone. The result is a
    version, and a running endpoint swaps to it. The same rows again change nothing.
    """
    from lorecast.jobs import refresh as refreshing
    from lorecast.jobs.refresh_input import NewTables

    config, console = _open(experiment, as_json)
    tables = NewTables(interactions=interactions, items=items, users=users)
    refreshing.run(config, tables, console, model=model, serve=serve)


@app.command(
    epilog="Examples: `lorecast score mine.yaml --pairs pairs.parquet` · "
    "`lorecast score mine.yaml --top 100 --out best`"
)
def score(
    experiment: Experiment = None,
    pairs: Annotated[
        Path | None,
        typer.Option(
            help="Parquet or CSV file, or a folder of them, with a user and an item a row; columns "
            "of the model's contexts count",
            show_default=False,
        ),
    ] = None,
    top: Annotated[
        int | None, typer.Option(min=1, help="instead: every user's so many best items")
    ] = None,
    items: Annotated[
        Path | None, typer.Option(help="table with the candidates of --top; default: all items")
    ] = None,
    user_column: Annotated[
        str | None, typer.Option(help="column of the user's id; default: as in the dataset")
    ] = None,
    item_column: Annotated[
        str | None, typer.Option(help="column of the item's id; default: as in the dataset")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="models:/NAME@ALIAS or models:/NAME/NUMBER; default: the champion"),
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="a bundle's folder instead of a registered model")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="new folder for a copy of the scores")] = None,
    as_json: Json = False,
) -> None:
    """Score many pairs, or rank the catalogue for every user, without a server.

    The scores are those of `lorecast serve`, as Parquet with `user_known` and `item_known`. A run
    that was interrupted goes on where it was; compute.scorers actors work side by side.
    """
    from lorecast.jobs import score as scoring
    from lorecast.jobs import score_input

    config, console = _open(experiment, as_json)
    columns = score_input.columns_of(config, user_column, item_column)
    job = score_input.Job(pairs=pairs, top=top, items=items, columns=columns)
    scoring.run(config, job, console, model=model, bundle=bundle, out=out)


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


@app.command(epilog="Example: `lorecast import-collm CoLLM/ml-1m collm`")
def import_collm(
    path: Annotated[Path, typer.Argument(help="folder with CoLLM's *_ood2.pkl")],
    output: Annotated[Path, typer.Argument(help="folder for the Parquet tables")],
    as_json: Json = False,
) -> None:
    """Turn CoLLM's pickled split into tables, without running what a pickle may hold."""
    from lorecast.jobs.console import Console
    from lorecast.sella.collm_pickles import convert

    rows = convert(path, output)
    told = ", ".join(f"{split} {count:,}" for split, count in rows.items())
    Console(as_json=as_json).result(f"{output}: {told} rows", rows=rows)


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


app.command(
    context_settings=BEFORE_COMMAND,
    epilog="Example: `lorecast submit --address http://HEAD:8265 run mine.yaml`",
)(submit)


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
