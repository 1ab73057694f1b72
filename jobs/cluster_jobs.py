"""Commands as jobs of a Ray cluster: submitted, followed, asked about, ended.

Ray's own client talks to the cluster and reads the token where Ray keeps it: RAY_AUTH_TOKEN, the
file RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token. It never reaches a message.
"""

import asyncio
import os
import shlex
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from lorecast.errors import ClusterError
from lorecast.jobs.upload import Upload

DEFAULT_URL = "http://127.0.0.1:8265"
STOPPED = 130
"""Exit code of a job that was stopped, as of a command that was interrupted."""
_CONNECT_TIMEOUT_S = 5.0
_NOT_YET = "No available agent"
"""Ray's words for a cluster whose nodes are not ready for jobs."""
_PROGRAM = "python -m lorecast.jobs "


class JobClient(Protocol):
    """What is used of Ray's JobSubmissionClient. Infos are its JobDetails."""

    def submit_job(self, *, entrypoint: str, runtime_env: dict[str, Any]) -> str: ...
    def get_job_info(self, job_id: str) -> Any: ...
    def get_job_logs(self, job_id: str) -> str: ...
    def tail_job_logs(self, job_id: str) -> AsyncIterator[str]: ...
    def stop_job(self, job_id: str) -> bool: ...
    def list_jobs(self) -> list[Any]: ...


@dataclass(frozen=True)
class Job:
    """One job as the cluster knows it."""

    id: str
    status: str
    """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
    command: str
    message: str
    started_s: float
    """Unix time."""
    ended_s: float | None
    driver_exit_code: int | None

    @property
    def exit_code(self) -> int | None:
        """Of the command; none while it runs, or if it never came to an end of its own."""
        if self.status == "SUCCEEDED":
            return 0
        if self.status == "STOPPED":
            return STOPPED
        code = self.driver_exit_code if self.status == "FAILED" else None
        return 128 - code if code is not None and code < 0 else code  # killed by a signal


class Cluster:
    """A Ray cluster's jobs. What it raises is ClusterError, naming the address and the fix."""

    def __init__(self, client: JobClient, url: str) -> None:
        self.url = url
        self._client = client

    def submit(
        self,
        words: Sequence[str],
        upload: Upload,
        *,
        patience_s: float = 60.0,
        pause_s: float = 1.0,
    ) -> str:
        """Starts `lorecast WORDS` with the uploaded package; returns the job's id.

        A cluster that has just been started takes jobs some seconds later: it is asked again for
        `patience_s`.
        """
        entrypoint = _PROGRAM + shlex.join(words)
        end_s = time.monotonic() + patience_s
        while True:
            try:
                with _our_errors(self.url):
                    return self._client.submit_job(
                        entrypoint=entrypoint, runtime_env=upload.runtime_env()
                    )
            except ClusterError as error:
                if _NOT_YET not in str(error) or time.monotonic() >= end_s:
                    raise
            time.sleep(pause_s)

    def job(self, job_id: str) -> Job:
        with _our_errors(self.url, job_id):
            return _described(self._client.get_job_info(job_id))

    def jobs(self) -> list[Job]:
        """All submitted ones, the newest first."""
        with _our_errors(self.url):
            infos = self._client.list_jobs()
        jobs = [_described(info) for info in infos if info.submission_id]
        return sorted(jobs, key=lambda job: -job.started_s)

    def logs(self, job_id: str) -> str:
        """What the job has written so far."""
        with _our_errors(self.url, job_id):
            return self._client.get_job_logs(job_id)

    def stop(self, job_id: str) -> bool:
        """Asks the job to end; false if it was over."""
        with _our_errors(self.url, job_id):
            return self._client.stop_job(job_id)

    def follow(
        self,
        job_id: str,
        write: Callable[[str], object],
        *,
        patience_s: float = 120.0,
        pause_s: float = 1.0,
    ) -> int:
        """Writes the job's log while it grows; returns the job's exit code.

        A connection that breaks is made again, and the log goes on where it broke. Raises
        ClusterError once the cluster has been silent for `patience_s`, or if the job's command
        did not come to an end of its own.
        """
        self.job(job_id)
        log = _Log(write)
        silent_since_s: float | None = None
        while True:
            try:
                with _our_errors(self.url, job_id):
                    asyncio.run(log.read(self._client.tail_job_logs(job_id)))
                job = self.job(job_id)
            except ClusterError as error:
                silent_since_s = silent_since_s or time.monotonic()
                if time.monotonic() - silent_since_s >= patience_s:
                    raise ClusterError(f"{error} (job {job_id} may still be running)") from error
            else:
                silent_since_s = None
                if job.exit_code is not None:
                    return job.exit_code
                if job.status == "FAILED":
                    raise ClusterError(f"{job_id} was lost by the cluster: {job.message}")
            time.sleep(pause_s)


class _Log:
    """Writes what is new of a log that is read from its start each time."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._num_written = 0

    async def read(self, chunks: AsyncIterator[str]) -> None:
        num_read = 0
        async for chunk in chunks:
            new = chunk[max(self._num_written - num_read, 0) :]
            num_read += len(chunk)
            if new:
                self._write(new)
                self._num_written = num_read


def connect(address: str | None) -> Cluster:
    """The cluster whose dashboard is at `address`, else where Ray's own commands would look.

    Raises ClusterError within seconds if nothing answers there or the token is refused.
    """
    url = _url(address)
    shown = _without_credentials(url)
    _check_answers(url, shown)
    _use_token_if_any()
    os.environ["RAY_API_SERVER_ADDRESS"] = url  # else Ray prefers RAY_ADDRESS to what it is told
    from ray.job_submission import JobSubmissionClient

    try:
        with _our_errors(shown):
            return Cluster(JobSubmissionClient(url), shown)
    except (OSError, KeyError, ValueError) as error:
        raise ClusterError(
            f"{shown} answers, but not as a Ray dashboard does ({type(error).__name__}): name the "
            "cluster's with --address"
        ) from error


def _url(address: str | None) -> str:
    by_ray = os.environ.get("RAY_ADDRESS", "")
    url = (
        address
        or os.environ.get("RAY_API_SERVER_ADDRESS")
        or (by_ray if by_ray.startswith(("http://", "https://")) else DEFAULT_URL)
    )
    return (url if "://" in url else f"http://{url}").rstrip("/")


def _without_credentials(url: str) -> str:
    return urlsplit(url)._replace(netloc=urlsplit(url).netloc.rpartition("@")[2]).geturl()


def _check_answers(url: str, shown: str) -> None:
    """Before Ray is imported, which takes seconds, and without its minutes of patience."""
    address = urlsplit(url)
    try:
        port = address.port or (443 if address.scheme == "https" else 80)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ValueError
    except ValueError:
        raise ClusterError(
            f"--address {shown}: give the URL of the cluster's dashboard, e.g. {DEFAULT_URL}"
        ) from None
    try:
        socket.create_connection((address.hostname, port), _CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise ClusterError(_silent(shown, error.strerror or str(error))) from None


def _silent(shown: str, reason: str) -> str:
    return (
        f"no Ray cluster answers at {shown} ({reason}): start one with `ray start --head` or "
        "`ray up cluster.yaml`, and name its dashboard with --address or RAY_API_SERVER_ADDRESS"
    )


def _use_token_if_any() -> None:
    """A token that is at hand is used, as by Ray itself in all its newer commands."""
    is_given = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    if is_given or (Path.home() / ".ray" / "auth_token").exists():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


@contextmanager
def _our_errors(shown: str, job_id: str | None = None) -> Iterator[None]:
    """Ray's errors, and those of the two HTTP libraries it uses, as ours."""
    import aiohttp
    import requests
    from ray.exceptions import AuthenticationError

    try:
        yield
    except (AuthenticationError, aiohttp.WSServerHandshakeError) as error:
        if getattr(error, "status", 401) not in (401, 403):
            raise ClusterError(f"{shown}: {error}") from None
        raise ClusterError(
            f"{shown} refuses the token: `ray get-auth-token` on the cluster's head prints the "
            "right one; put it into RAY_AUTH_TOKEN, into a file named by RAY_AUTH_TOKEN_PATH, or "
            "into ~/.ray/auth_token"
        ) from None
    except (ConnectionError, requests.ConnectionError, requests.Timeout, aiohttp.ClientError):
        raise ClusterError(_silent(shown, "the connection broke")) from None
    except RuntimeError as error:
        said = str(error).strip().splitlines()[0]
        if job_id is not None and "404" in said:
            raise ClusterError(
                f"{shown} has no job {job_id}; `lorecast jobs list` shows those it has"
            ) from None
        raise ClusterError(f"{shown}: {said}") from None


def _described(info: Any) -> Job:
    return Job(
        id=info.submission_id,
        status=str(getattr(info.status, "value", info.status)),
        command=info.entrypoint.replace(_PROGRAM, "lorecast ", 1),
        message=info.message or "",
        started_s=(info.start_time or 0) / 1e3,
        ended_s=info.end_time and info.end_time / 1e3,
        driver_exit_code=info.driver_exit_code,
    )
