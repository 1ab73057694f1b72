"""`lorecast submit …` and `lorecast jobs …`: any command as a job of a Ray cluster."""

import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from lorecast.jobs.cluster_jobs import Cluster, Job

BEFORE_COMMAND = {"allow_interspersed_args": False, "ignore_unknown_options": True}
"""What follows the command's name is the command's own."""

jobs_app = typer.Typer(help="Jobs that `lorecast submit` gave to a Ray cluster.")

Address = Annotated[
    str | None,
    typer.Option(
        help="URL of the cluster's dashboard; default: RAY_API_SERVER_ADDRESS, else "
        "http://127.0.0.1:8265",
        show_default=False,
    ),
]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="id that submit printed")]
Json = Annotated[bool, typer.Option("--json", help="one JSON object a line, for machines")]


def submit(
    context: typer.Context,
    command: Annotated[
        list[str],
        typer.Argument(metavar="COMMAND...", help="any lorecast command and its arguments"),
    ],
    address: Address = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="return once the job is submitted")
    ] = False,
    as_json: Json = False,
) -> None:
    """Run a lorecast command as a job of a Ray cluster; ends with its exit code.

    lorecast's wheel and the experiment file are sent along, nothing else. The job's log is printed
    while it grows. Ctrl-C leaves the job running.
    """
    from lorecast.jobs import cluster_jobs, upload
    from lorecast.jobs.console import Console

    console = Console(as_json=as_json)
    words = list(command)
    given = _parsed(context, words)
    experiment = given.get("experiment")
    warnings = [
        f"--{name} {value} is on this machine and is not sent along"
        for name, value in given.items()
        if isinstance(value, Path) and value.exists()
    ]
    file = None
    if "experiment" in given:
        warnings += upload.check_experiment(experiment or [], searched=words[0] == "tune")
        if experiment and "=" not in experiment[0]:
            file = Path(experiment[0])
            words[words.index(experiment[0])] = file.name
    cluster = cluster_jobs.connect(address)
    for warning in warnings:
        console.note(f"warning: {warning}")
    with tempfile.TemporaryDirectory(prefix="lorecast-upload-") as folder:
        packed = upload.pack(file, Path(folder))
        console.note(packed.summary)
        job = cluster.submit(words, packed)
    there = f" --address {cluster.url}" if address else ""
    console.result(
        f"{job} at {cluster.url}; `lorecast jobs logs --follow{there} {job}` shows it, "
        f"`lorecast jobs stop{there} {job}` ends it",
        job=job,
        url=cluster.url,
    )
    if not detach:
        raise typer.Exit(_followed(cluster, job, there))


@jobs_app.command("list", epilog="Example: `lorecast jobs list --address http://HEAD:8265`")
def list_jobs(address: Address = None, as_json: Json = False) -> None:
    """The cluster's jobs, the newest first."""
    from lorecast.jobs.cluster_jobs import connect
    from lorecast.jobs.console import Console

    cluster = connect(address)
    lines = [_line(job) for job in cluster.jobs()]
    console = Console(as_json=as_json)
    if lines:
        console.table(f"jobs of {cluster.url}", lines)
    else:
        console.result(f"{cluster.url} has no jobs", jobs=0)


@jobs_app.command(epilog="Example: `lorecast jobs status raysubmit_1a2b3c4d`")
def status(job: JobId, address: Address = None, as_json: Json = False) -> None:
    """What has become of a job."""
    from lorecast.jobs.cluster_jobs import connect
    from lorecast.jobs.console import Console

    found = connect(address).job(job)
    line = _line(found)
    told = ", ".join(f"{name} {value}" for name, value in line.items() if value)
    Console(as_json=as_json).result(f"{told}\n{found.message}", **line, message=found.message)


@jobs_app.command(epilog="Example: `lorecast jobs logs --follow raysubmit_1a2b3c4d`")
def logs(
    job: JobId,
    address: Address = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="until the job ends; then end with its exit code")
    ] = False,
) -> None:
    """What a job has written."""
    from lorecast.jobs.cluster_jobs import connect

    cluster = connect(address)
    if follow:
        raise typer.Exit(_followed(cluster, job, f" --address {cluster.url}" if address else ""))
    sys.stdout.write(cluster.logs(job))


@jobs_app.command(epilog="Example: `lorecast jobs stop raysubmit_1a2b3c4d`")
def stop(job: JobId, address: Address = None, as_json: Json = False) -> None:
    """End a job; what its finished stages made stays."""
    from lorecast.jobs.cluster_jobs import connect
    from lorecast.jobs.console import Console

    was_running = connect(address).stop(job)
    told = "is being ended" if was_running else "was over already"
    Console(as_json=as_json).result(f"{job} {told}", job=job, was_running=was_running)


def _parsed(context: typer.Context, words: Sequence[str]) -> dict[str, Any]:
    """The parameters of `lorecast WORDS`; ends as that command would on words it does not take."""
    root = context.find_root()
    command: Any = root.command
    name, rest = "lorecast", list(words)
    while isinstance(command, TyperGroup):
        if not rest:
            context.fail(f"{name} needs a command")
        name, command, rest = command.resolve_command(root, rest)  # type: ignore[assignment]
    parameters: dict[str, Any] = command.make_context(name, rest, parent=root).params
    return parameters


def _followed(cluster: "Cluster", job: str, there: str) -> int:
    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    try:
        return cluster.follow(job, write)
    except KeyboardInterrupt:
        sys.stderr.write(
            f"{job} goes on; `lorecast jobs logs --follow{there} {job}` shows it again, "
            f"`lorecast jobs stop{there} {job}` ends it\n"
        )
        return 130


def _line(job: "Job") -> dict[str, str]:
    started = datetime.fromtimestamp(job.started_s).astimezone()
    code = job.exit_code
    return {
        "job": job.id,
        "status": job.status.lower(),
        "exit code": "" if code is None else str(code),
        "started": started.isoformat(" ", "seconds") if job.started_s else "",
        "seconds": f"{(job.ended_s or time.time()) - job.started_s:,.0f}",
        "command": job.command,
    }
