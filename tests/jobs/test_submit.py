"""Commands as jobs: what is sent and printed, and the exit code, on a cluster in memory."""

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest

from lorecast.errors import ClusterError
from lorecast.jobs import cluster_jobs
from lorecast.jobs.cli import main
from lorecast.jobs.cluster_jobs import Cluster
from lorecast.jobs.upload import Upload
from tests.free_port import free_port

_URL = "http://head:8265"
_LOG = ["one\n", "two\n", "three\n"]


@dataclass
class MemoryCluster:
    """A `JobClient` with one job, whose log breaks off `breaks` times after two of three parts."""

    status: str = "SUCCEEDED"
    code: int | None = 0
    breaks: int = 0
    interrupted: bool = False
    refusals: int = 0
    """Submissions that come before any node takes jobs."""
    submitted: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    sent: set[str] = field(default_factory=set)
    tails: int = 0

    def submit_job(self, *, entrypoint: str, runtime_env: dict[str, Any]) -> str:
        if self.refusals:
            self.refusals -= 1
            raise RuntimeError("Request failed with status code 500: No available agent to submit")
        self.submitted.append((entrypoint, runtime_env))
        self.sent = {Path(path).name for path in runtime_env["py_modules"]}
        if folder := runtime_env.get("working_dir"):
            self.sent |= {path.name for path in Path(folder).iterdir()}
        return "job_1"

    def get_job_info(self, job_id: str) -> Any:
        if job_id != "job_1":
            raise RuntimeError(f"Request failed with status code 404: Job {job_id} does not exist.")
        return SimpleNamespace(
            submission_id="job_1",
            status=self.status,
            entrypoint="python -m lorecast.jobs run mine.yaml",
            message="its supervisor died",
            start_time=1_700_000_000_000,
            end_time=1_700_000_060_000,
            driver_exit_code=self.code,
        )

    def get_job_logs(self, job_id: str) -> str:
        return "".join(_LOG)

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        self.tails += 1
        for n, part in enumerate(_LOG):
            if n == 2 and self.interrupted:
                raise KeyboardInterrupt
            if n == 2 and self.tails <= self.breaks:
                raise RuntimeError("WebSocket connection closed unexpectedly with close code 1006")
            yield part

    def stop_job(self, job_id: str) -> bool:
        return self.status == "RUNNING"

    def list_jobs(self) -> list[Any]:
        return [self.get_job_info("job_1"), SimpleNamespace(submission_id=None)]


def _followed(client: MemoryCluster, **patience: float) -> tuple[int, str]:
    written: list[str] = []
    cluster = Cluster(client, _URL)
    code = cluster.follow("job_1", written.append, pause_s=0.0, **patience)
    return code, "".join(written)


@pytest.mark.parametrize(
    ("status", "driver", "code"),
    [("SUCCEEDED", 0, 0), ("FAILED", 3, 3), ("FAILED", -9, 137), ("STOPPED", None, 130)],
)
def test_exit_code_is_the_commands(status: str, driver: int | None, code: int) -> None:
    assert _followed(MemoryCluster(status, driver)) == (code, "one\ntwo\nthree\n")


def test_job_whose_command_never_ended_is_an_error_that_says_why() -> None:
    with pytest.raises(ClusterError, match="job_1 was lost by the cluster: its supervisor died"):
        _followed(MemoryCluster("FAILED", None))


def test_log_goes_on_where_the_connection_broke() -> None:
    client = MemoryCluster(breaks=3)
    assert _followed(client) == (0, "one\ntwo\nthree\n")
    assert client.tails == 4


def test_silent_cluster_is_given_up_and_the_job_named() -> None:
    with pytest.raises(ClusterError, match="job_1 may still be running"):
        _followed(MemoryCluster(breaks=10**6), patience_s=0.0)


@pytest.mark.bad_input
def test_a_cluster_that_has_just_started_is_asked_again(tmp_path: Path) -> None:
    nothing = Upload(wheel=Path("a.whl"), working_dir=tmp_path, sizes={})
    cluster = Cluster(MemoryCluster(refusals=2), _URL)
    assert cluster.submit(["run"], nothing, pause_s=0) == "job_1"
    with pytest.raises(ClusterError, match="No available agent"):
        Cluster(MemoryCluster(refusals=9), _URL).submit(["run"], nothing, patience_s=0, pause_s=0)


def test_unknown_job_is_named_at_once() -> None:
    cluster = Cluster(MemoryCluster(), _URL)
    for call in (cluster.job, lambda job: cluster.follow(job, print)):
        with pytest.raises(ClusterError, match="has no job job_2; `lorecast jobs list`"):
            call("job_2")


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


Call = Callable[..., Ended]


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Call:
    """Calls `lorecast …` in a folder with mine.yaml; a client given stands for the cluster."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", _URL)
    (tmp_path / "mine.yaml").write_text("compute: {workspace: /mnt/shared/workspace}\n")

    def run(*words: str, client: MemoryCluster | None = None) -> Ended:
        if client is not None:
            monkeypatch.setattr(cluster_jobs, "connect", lambda _: Cluster(client, _URL))
        monkeypatch.setattr(sys, "argv", ["lorecast", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Ended(ended.value.code, captured.out, captured.err)

    return run


def test_submit_sends_the_command_and_prints_upload_and_log(call: Call, tmp_path: Path) -> None:
    client = MemoryCluster("FAILED", 7)
    path = str(tmp_path / "mine.yaml")
    ended = call("submit", "run", path, "training.seeds=[0, 1]", "--json", client=client)
    assert ended.code == 7
    assert "upload: " in ended.out
    assert "model.safetensors" in ended.out
    assert ended.out.endswith("one\ntwo\nthree\n")
    ((entrypoint, _),) = client.submitted
    expected = "python -m lorecast.jobs run mine.yaml 'training.seeds=[0, 1]' --json"
    assert entrypoint == expected
    assert "mine.yaml" in client.sent
    assert len(client.sent) == 2


def test_detached_submit_returns_at_once(call: Call) -> None:
    client = MemoryCluster("RUNNING", None)
    ended = call("submit", "--detach", "plan", "mine.yaml", client=client)
    assert (ended.code, client.tails) == (0, 0)
    assert "lorecast jobs logs --follow job_1" in " ".join(ended.out.split())


def test_ctrl_c_leaves_the_job_and_says_how_to_end_it(call: Call) -> None:
    ended = call("submit", "run", "mine.yaml", client=MemoryCluster(interrupted=True))
    assert ended.code == 130
    assert "job_1 goes on" in ended.err
    assert "lorecast jobs stop job_1" in ended.err
    assert "run the same command again" not in ended.err


def test_local_paths_are_warned_about(call: Call, tmp_path: Path) -> None:
    (tmp_path / "llm").mkdir()
    words = ("submit", "run", "mine.yaml", "knowledge.llm.model=./llm")
    assert "warning: knowledge.llm.model = ./llm" in call(*words, client=MemoryCluster()).out
    ended = call("submit", "init", "llm", client=MemoryCluster())
    assert "warning: --path llm is on this machine" in ended.out


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["trian"], "No such command"),
        (["knowledge"], "knowledge needs a command"),
        (["run", "--no-such-option"], "No such option"),
        (["run", "absent.yaml"], "absent.yaml: no such file"),
        (["run", "mine.yaml", "training.epoch=1"], "did you mean training.epochs?"),
        (["run", "mine.yaml", "compute.workspace=here"], "compute.workspace"),
    ],
)
def test_mistakes_are_told_before_anything_is_sent(call: Call, words: list[str], told: str) -> None:
    client = MemoryCluster()
    ended = call("submit", *words, client=client)
    assert ended.code == 2
    assert told in ended.err
    assert client.submitted == []


def test_jobs_list_status_logs_stop(call: Call) -> None:
    client = MemoryCluster("FAILED", 3)
    listed = call("jobs", "list", "--json", client=client)
    assert '"exit code": "3"' in listed.out
    assert '"command": "lorecast run mine.yaml"' in listed.out
    shown = call("jobs", "status", "job_1", client=client)
    assert "failed, exit code 3" in shown.out
    assert call("jobs", "logs", "job_1", client=client) == Ended(0, "one\ntwo\nthree\n", "")
    assert call("jobs", "logs", "--follow", "job_1", client=client).code == 3
    assert "was over already" in call("jobs", "stop", "job_1", client=client).out
    running = MemoryCluster("RUNNING", None)
    assert "is being ended" in call("jobs", "stop", "job_1", client=running).out


@pytest.mark.bad_input
def test_no_cluster_is_named_with_how_to_start_one(call: Call) -> None:
    address = f"127.0.0.1:{free_port()}"
    ended = call("submit", "--address", address, "run", "mine.yaml")
    assert ended.code == 11
    assert f"no Ray cluster answers at http://{address}" in ended.err
    assert "ray start --head" in ended.err
    assert call("jobs", "list", "--address", "ftp://head").code == 11


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("status", "told"),
    [(200, "not as a Ray dashboard does"), (401, "refuses the token"), (403, "refuses the token")],
)
def test_foreign_server_and_refused_token(
    call: Call, monkeypatch: pytest.MonkeyPatch, status: int, told: str
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "the-secret-itself")
    with _server(status) as address:
        ended = call("jobs", "list", "--address", f"http://me:password@{address}")
    assert ended.code == 11
    assert told in ended.err
    assert f"http://{address}" in ended.err
    for secret in ("the-secret-itself", "password"):
        assert secret not in ended.out + ended.err


@contextmanager
def _server(status: int) -> Iterator[str]:
    """host:port of a server that gives every GET this status."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"no")

        def log_message(self, *_: Any) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
