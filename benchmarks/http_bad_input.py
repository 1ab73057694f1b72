"""Point 1k: what a client may send wrong, to a real `lorecast serve`: 4xx and a sentence, no 5xx.

Three parts: the list of bad requests that the tests use; bytes that are not HTTP, or break off;
schemathesis with all its checks on the server's own OpenAPI document. Unknown ids are not wrong:
they must be scored and named.
"""

import socket
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import httpx

from benchmarks.harness import Outcome
from benchmarks.server import serving
from tests.serve.bad_requests import BAD
from tests.small_bundle import write_small_bundle
from tests.tiny_dataset import write_tiny_dataset

BAR = "unknown ids scored and named; bad requests 4xx with a sentence; schemathesis finds no 5xx"
_EXAMPLES = 300
_NOT_HTTP = {
    "garbage": b"\x00\x01\x02\r\n\r\n",
    "no such method": b"FETCH /v1/score HTTP/1.1\r\nHost: a\r\n\r\n",
    "length is no number": b"POST /v1/score HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
    "length is negative": b"POST /v1/score HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    "broken chunks": (
        b"POST /v1/score HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
    ),
    "huge header": b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
    "breaks off": b"POST /v1/score HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{",
}


def measure() -> Outcome:
    with tempfile.TemporaryDirectory(prefix="lorecast-http-") as folder:
        workspace = Path(folder)
        bundle = write_small_bundle(workspace, write_tiny_dataset(workspace))
        with serving("--bundle", str(bundle)) as address:
            url = "http://{}:{}".format(*address)
            with httpx.Client(base_url=url, timeout=60) as client:
                unknown = _unknown(client)
                refused = {name: _refused(client, *case) for name, case in BAD.items()}
                raw = {name: _raw(address, content) for name, content in _NOT_HTTP.items()}
                random = _schemathesis(url, workspace / "junit.xml")
                alive = client.get("/healthz").status_code == 200
    wrong = [name for name, answer in refused.items() if not answer["as_expected"]]
    statuses = [answer["status"] for answer in refused.values()] + list(raw.values())
    server_errors = sum(status >= 500 for status in statuses) + random["server_errors"]
    return Outcome(
        figure=(
            f"{server_errors} answers from 500 up; {len(refused) - len(wrong)} of {len(refused)} "
            f"bad requests refused as they should; schemathesis: {random['failures']} failures"
        ),
        passed=(unknown and alive and not wrong and server_errors == 0 and random["failures"] == 0),
        details={
            "unknown_ids_scored_and_named": unknown,
            "healthy_after_all": alive,
            "refused": refused,
            "not_http_status": raw,
            "schemathesis": random,
        },
    )


def _unknown(client: httpx.Client) -> bool:
    body = {"user_id": "nobody", "item_ids": ["i1", "nothing"]}
    answer = client.post("/v1/score", json=body).json()
    named = answer["unknown"]
    return (
        len(answer["scores"]) == 2
        and named["user_ids"] == ["nobody"]
        and named["item_ids"] == ["nothing"]
    )


def _refused(
    client: httpx.Client, path: str, body: str | bytes, status: int, message: str
) -> dict[str, Any]:
    answer = client.post(path, content=body)
    error = answer.json().get("error", "")
    return {
        "status": answer.status_code,
        "error": error,
        "as_expected": answer.status_code == status and message in error,
    }


def _raw(address: tuple[str, int], content: bytes) -> int:
    """The status of the answer to these bytes, 0 if the connection was closed without one."""
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(content)
        connection.shutdown(socket.SHUT_WR)
        try:
            words = connection.recv(1 << 16).split()
        except OSError:
            return 0
    return int(words[1]) if len(words) > 1 else 0


def _schemathesis(url: str, report: Path) -> dict[str, int]:
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("st")),
            *("run", f"{url}/openapi.json", "--checks", "all", "--seed", "1", "--no-color"),
            *("--max-examples", str(_EXAMPLES), "--generation-database", "none"),
            *("--report", "junit", "--report-junit-path", str(report)),
        ],
        cwd=report.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    cases = list(ET.parse(report).getroot().iter("testcase"))
    failed = [case for case in cases if any(c.tag in ("failure", "error") for c in case)]
    if failed:
        sys.stderr.write(done.stdout)
    return {
        "operations": len(cases),
        "failures": len(failed),
        "server_errors": done.stdout.count("Server error"),
        "exit_code": done.returncode,
        "examples_an_operation": _EXAMPLES,
    }
