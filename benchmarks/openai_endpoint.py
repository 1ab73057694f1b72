"""Point 2g: `lorecast generate` against a real vLLM server that is busy at times and restarts.

In front of the server stands a proxy of this benchmark: it answers a seeded tenth of the calls
with 429 and Retry-After, and counts by prompt what the server finished. Once half has passed, the
server is killed with all its processes and started again.
"""

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from aiohttp import web

from benchmarks.harness import Outcome
from lorecast.jobs.vllm_engine import environment
from lorecast.knowledge import rows, store
from lorecast.knowledge.language_model import find_language_model
from lorecast.world import generate, llm_path

BAR = (
    "OpenAI-compatible engine against a real local vLLM server, with 429s and a restart in "
    "between: all rows, none twice"
)
_ROOT = Path(__file__).parents[1]
_FACTORS = ("director", "mood", "setting")
_BUSY_SHARE, _RETRY_AFTER_S = 0.1, 1
_MODEL = "world"
_START_S, _RUN_S = 300, 1200


def measure() -> Outcome:
    wanted = generate().items.num_rows * len(_FACTORS)
    upstream = f"http://127.0.0.1:{_free_port()}"
    with (
        tempfile.TemporaryDirectory(prefix="lorecast-openai-") as workspace,
        _serving(upstream) as server,
        _proxy(upstream) as (proxy, url),
    ):
        started_s = time.monotonic()
        client = _generate(workspace, url)
        while proxy.finished.total() < wanted / 2 and client.poll() is None:
            time.sleep(0.05)
        cut = server.restart(proxy)
        output, _ = client.communicate(timeout=_RUN_S)
        run_s = time.monotonic() - started_s
        if client.returncode:
            raise SystemExit(f"lorecast generate failed:\n{output[-4000:]}")
        stored = _stored(workspace)
    twice = {prompt for prompt, count in proxy.finished.items() if count > 1}
    passed = (
        stored["wanted"] == stored["rows"] == stored["keys"] == len(proxy.finished) == wanted
        and stored["failed"] == 0
        and twice <= cut
        and proxy.busy > 0
        and proxy.broken > 0
    )
    return Outcome(
        figure=(
            f"{stored['rows']:,} of {wanted:,} rows, none failed or twice, in {run_s:.0f} s with "
            f"{proxy.busy} answers 429 and a restart of {server.away_s:.0f} s"
            if passed
            else f"{stored['rows']:,} rows of {wanted:,}, {stored['keys']:,} keys, "
            f"{stored['failed']:,} failed, {len(twice - cut):,} prompts paid twice"
        ),
        passed=passed,
        details={
            "prompts": wanted,
            "stored": stored,
            "calls": proxy.calls,
            "repeated_calls": proxy.calls - wanted,
            "answered_429": proxy.busy,
            "broken_by_the_restart": proxy.broken,
            "in_flight_at_the_restart": len(cut),
            "finished_twice": len(twice),
            "finished_twice_in_flight_at_the_restart": len(twice & cut),
            "server_away_s": round(server.away_s, 1),
            "run_s": round(run_s, 1),
        },
    )


# ── the server ───────────────────────────────────────────────────────────────────────────────


class _Server:
    """vLLM's OpenAI server on the world's model."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.away_s = 0.0
        self.start()

    def start(self) -> None:
        """Returns when it answers."""
        model = find_language_model(str(llm_path()))
        words = ["--model", model.source, "--served-model-name", _MODEL, "--max-model-len", "256"]
        place = ["--host", "127.0.0.1", "--port", self._url.rpartition(":")[2]]
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
                *(*words, *place, "--dtype", "bfloat16", "--enforce-eager"),
            ],
            env=os.environ | environment(model, num_gpus=0) | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline_s = time.monotonic() + _START_S
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                raise SystemExit("vLLM's server did not start")
            time.sleep(0.5)

    def restart(self, proxy: "_Proxy") -> set[str]:
        """Kills it and starts it again; returns the prompts that it was answering."""
        killed_s = time.monotonic()
        cut = set(proxy.in_flight)
        self.kill()
        self.start()
        self.away_s = time.monotonic() - killed_s
        return cut

    def kill(self) -> None:
        """Ends it with its engine process, which shares its group."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"{self._url}/health").is_success
        except httpx.HTTPError:
            return False


@contextmanager
def _serving(url: str) -> Iterator[_Server]:
    server = _Server(url)
    try:
        yield server
    finally:
        server.kill()


# ── the proxy ────────────────────────────────────────────────────────────────────────────────


class _Proxy:
    """Passes calls on, but for a seeded share; breaks the connection where the server did."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._random = random.Random(0)
        self.calls = self.busy = self.broken = 0
        self.in_flight: Counter[str] = Counter()
        self.finished: Counter[str] = Counter()
        """Answers of the server, by prompt."""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        prompt = json.dumps(json.loads(body)["messages"])
        self.calls += 1
        if self._random.random() < _BUSY_SHARE:
            self.busy += 1
            refusal = {"error": {"message": "slow down"}}
            return web.json_response(
                refusal, status=429, headers={"Retry-After": str(_RETRY_AFTER_S)}
            )
        self.in_flight[prompt] += 1
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.post(
                    self._upstream + request.path,
                    data=body,
                    headers={"content-type": "application/json"},
                ) as answer,
            ):
                content, status = await answer.read(), answer.status
        except aiohttp.ClientError:
            self.broken += 1
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        finally:
            self.in_flight -= Counter([prompt])
        if status == 200:
            self.finished[prompt] += 1
        return web.Response(body=content, status=status, content_type="application/json")


@contextmanager
def _proxy(upstream: str) -> Iterator[tuple[_Proxy, str]]:
    """Runs a proxy in a thread; yields it and its base URL."""
    proxy, port = _Proxy(upstream), _free_port()
    loop = asyncio.new_event_loop()

    async def start() -> web.AppRunner:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", proxy.handle)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        return runner

    runner = loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield proxy, f"http://127.0.0.1:{port}/v1"
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# ── the client ───────────────────────────────────────────────────────────────────────────────


def _generate(workspace: str, url: str) -> "subprocess.Popen[str]":
    """Starts `lorecast generate` on one field of the shipped experiment."""
    experiment: dict[str, Any] = yaml.safe_load((_ROOT / "configs" / "world.yaml").read_text())
    field = {"kind": "generate", "name": "item_facts", "side": "item", "factor_set": "world"}
    experiment["knowledge"]["fields"] = [field | {"factors": list(_FACTORS)}]
    path = Path(workspace) / "experiment.yaml"
    path.write_text(yaml.safe_dump(experiment))
    overrides: Sequence[str] = (
        "knowledge.llm.engine=openai",
        f"knowledge.llm.base_url={url}",
        "compute.engines=1",
        f"compute.workspace={workspace}/workspace",
    )
    return subprocess.Popen(
        [str(Path(sys.executable).with_name("lorecast")), "generate", str(path), *overrides],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _stored(workspace: str) -> dict[str, int]:
    """What the store and the stage's table hold."""
    folder = Path(workspace) / "workspace"
    [knowledge] = folder.glob(f"{rows.STAGE}/*/{rows.KNOWLEDGE}")
    wanted = pq.read_table(knowledge)["key"]
    parts = pa.concat_tables(map(pq.read_table, (folder / store.FOLDER).glob("part-*.parquet")))
    answered = parts.filter(pc.not_equal(parts["status"], "failed"))
    found = pc.is_in(wanted, value_set=answered["key"].combine_chunks())
    return {
        "wanted": len(pc.unique(wanted)),
        "rows": parts.num_rows,
        "keys": len(pc.unique(answered["key"].filter(pc.is_in(answered["key"], wanted)))),
        "missing": pc.sum(pc.invert(found)).as_py(),
        "failed": parts.num_rows - answered.num_rows,
    }


if __name__ == "__main__":
    print(measure())
