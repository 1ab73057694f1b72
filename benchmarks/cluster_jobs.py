"""Point 5a: jobs on a real cluster of two nodes, by token, from a clean folder; one node killed.

The cluster's own Python finds a package `lorecast` that cannot be imported, so that only what the
jobs bring along can run. No other Ray may run on the machine: a job of Ray finds its cluster among
the processes there.
"""

import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

from benchmarks.generation import (
    ITEMS,
    LORECAST,
    USERS,
    count_keys,
    num_stored,
    stored,
    write_experiment,
)
from benchmarks.harness import Outcome
from lorecast.errors import ClusterError, InputError
from tests.free_port import free_port

BAR = (
    "two nodes, jobs by token from a clean folder, one node killed midway in `run`: it finishes, "
    "exit codes are right, logs are streamed"
)
_FACTORS = ["director", "mood"]
_PROMPTS = 2 * (600 + 2000)
_STAGES = ["prepare", "generate", "encode", "train", "train", "register"]
_CLUSTER = """
import sys
from ray.cluster_utils import Cluster
# A folder each, as on two machines: of one, either agent would unpack a job's files anew, under
# the feet of the command that runs there. And Ray's own agent port may be taken.
dashboard_port, *agent_ports = map(int, sys.argv[2:])
nodes = [
    {
        "num_cpus": 1,
        "object_store_memory": 1 << 29,
        "dashboard_agent_listen_port": port,
        "temp_dir": f"{sys.argv[1]}/{number}",
    }
    for number, port in enumerate(agent_ports)
]
dashboard = {"include_dashboard": True, "dashboard_port": dashboard_port}
cluster = Cluster(initialize_head=True, head_node_args={**nodes[0], **dashboard})
second = cluster.add_node(**nodes[1])
cluster.wait_for_nodes()
print("up", flush=True)
for line in sys.stdin:
    if line.strip() == "kill":
        cluster.remove_node(second, allow_graceful=False)
        print("killed", flush=True)
cluster.shutdown()
"""


class Command:
    """`lorecast …` as a process, and what it has printed so far."""

    def __init__(self, *words: str, folder: Path, environment: Mapping[str, str]) -> None:
        self.lines: list[str] = []
        self._process = subprocess.Popen(
            [LORECAST, *words],
            cwd=folder,
            env=dict(environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def output(self) -> str:
        return "".join(self.lines)

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def events(self, kind: str) -> list[dict[str, object]]:
        found = [json.loads(line) for line in list(self.lines) if line.startswith("{")]
        return [event for event in found if event["event"] == kind]

    def stages(self) -> list[tuple[object, object]]:
        """(stage, cached) of those that have ended."""
        return [(event["stage"], event["cached"]) for event in self.events("stage")]

    def wait(self) -> int:
        code = self._process.wait(timeout=1200)
        self._reader.join()
        return code

    def _read(self) -> None:
        assert self._process.stdout is not None
        self.lines.extend(self._process.stdout)


def measure() -> Outcome:
    if any(process.name() == "gcs_server" for process in psutil.process_iter()):
        raise SystemExit("another Ray runs on this machine: stop it first")
    with tempfile.TemporaryDirectory(prefix="lorecast-jobs-", ignore_cleanup_errors=True) as name:
        folder, port, token = Path(name), free_port(), secrets.token_hex(16)
        clean = folder / "clean"
        clean.mkdir()
        experiment = write_experiment(
            clean,
            [{**field, "factors": _FACTORS} for field in (ITEMS, USERS)],
            compute={
                "workspace": str(folder / "shared" / "workspace"),
                "engines": 2,
                "threads": 1,
                "engine_batch": 128,
            },
            training={"epochs": 2},
        ).name

        def start(*words: str, token: str = token) -> Command:
            reach = {"RAY_AUTH_TOKEN": token, "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{port}"}
            return Command(*words, folder=clean, environment=_environment() | reach)

        with _cluster(folder, token, port) as cluster:
            refused = start("submit", "run", experiment, token=secrets.token_hex(16))
            codes = {"refused token": (refused.wait(), ClusterError.exit_code)}
            absent = ["dataset.source=movielens", f"dataset.path={folder / 'absent'}"]
            failing = start("submit", "prepare", experiment, *absent)
            codes["missing tables"] = (failing.wait(), InputError.exit_code)
            started_s = time.monotonic()
            job = start("submit", "run", experiment, "--json")
            while num_stored(clean / experiment) < _PROMPTS // 2:
                if job.ended:
                    raise SystemExit(job.output[-4000:])
                time.sleep(0.1)
            at_kill, stages_at_kill = num_stored(clean / experiment), job.stages()
            _kill_second_node(cluster)
            codes["a node killed"] = (job.wait(), 0)
            seconds = time.monotonic() - started_s
            again = start("submit", "run", experiment, "--json")
            codes["again"] = (again.wait(), 0)
            stopped = _stopped(start, experiment)
            codes["stopped"] = (stopped.wait(), 130)
        counts = count_keys(stored(clean / experiment))
    commands = (refused, failing, job, again, stopped)
    checks = {
        "stages_in_order": [stage for stage, _ in job.stages()] == _STAGES,
        "log_streamed_before_the_kill": stages_at_kill == [("prepare", False)],
        "each_key_once": counts["keys_once"] == _PROMPTS and counts["keys_twice"] == 0,
        "again_all_cached": again.stages() == [(stage, True) for stage in _STAGES],
        "reason_of_the_failure_printed": "absent" in failing.output,
        "token_in_no_output": not any(token in command.output for command in commands),
    }
    right = sum(code == wanted for code, wanted in codes.values())
    passed = right == len(codes) and all(checks.values())
    if not passed:
        sys.stderr.write("".join(command.output[-4000:] for command in commands))
    return Outcome(
        figure=(
            f"node killed at {at_kill:,} of {_PROMPTS:,} prompts: `run` ended with "
            f"{codes['a node killed'][0]} after {seconds:.0f} s, {counts['keys_once']:,} keys "
            f"once, {counts['keys_twice']} twice; {right} of {len(codes)} exit codes right"
        ),
        passed=passed,
        details={
            "stored_at_kill": at_kill,
            "seconds": round(seconds, 1),
            "exit_codes": {name: code for name, (code, _) in codes.items()},
            **checks,
            **counts,
        },
    )


def _stopped(start: Callable[..., Command], experiment: str) -> Command:
    """Follows a job that was submitted, found running, and stopped."""
    words = [experiment, "training.seeds=[1]", "training.epochs=1000", "training.patience=1000"]
    detached = start("submit", "--detach", "--json", "train", *words)
    if detached.wait():
        raise SystemExit(detached.output)
    (result,) = detached.events("result")
    job = str(result["job"])
    while True:
        shown = start("jobs", "status", "--json", job)
        shown.wait()
        (status,) = shown.events("result")
        if status["status"] == "running":
            break
        if status["status"] != "pending":
            raise SystemExit(shown.output)
    if start("jobs", "stop", job).wait():
        raise SystemExit(f"{job} could not be stopped")
    return start("jobs", "logs", "--follow", job)


@contextmanager
def _cluster(folder: Path, token: str, port: int) -> Iterator["subprocess.Popen[str]"]:
    """Two nodes whose dashboard is at `port`; what they run of lorecast must come with a job."""
    decoy = folder / "decoy" / "lorecast"
    decoy.mkdir(parents=True)
    (decoy / "__init__.py").write_text("raise ImportError('not the wheel that was submitted')\n")
    environment = _environment() | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_BACKEND_LOG_LEVEL": "fatal",
        "PYTHONPATH": str(decoy.parent),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    ports = (port, free_port(), free_port())
    cluster = subprocess.Popen(
        [sys.executable, "-c", _CLUSTER, str(folder), *map(str, ports)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=folder,
    )
    assert cluster.stdin is not None
    assert cluster.stdout is not None
    try:
        _expect(cluster, "up")
        yield cluster
    finally:
        cluster.stdin.close()
        cluster.wait(timeout=120)


def _kill_second_node(cluster: "subprocess.Popen[str]") -> None:
    assert cluster.stdin is not None
    cluster.stdin.write("kill\n")
    cluster.stdin.flush()
    _expect(cluster, "killed")


def _expect(cluster: "subprocess.Popen[str]", word: str) -> None:
    """Reads on until the cluster says so."""
    assert cluster.stdout is not None
    for line in cluster.stdout:
        if line.strip() == word:
            return
    raise SystemExit(f"the cluster ended before it was {word}")


def _environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "RAY_"))}
    return {**kept, "HF_HUB_OFFLINE": "1"}
