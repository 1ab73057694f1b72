"""The endpoint on a real Ray Serve, and the command around it."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from lorecast.config import MAIN_ARM, ArmConfig, ExperimentConfig, ServingConfig, load_config
from lorecast.errors import ServingError
from lorecast.lifecycle.scorer import Scorer
from lorecast.serve import run
from lorecast.serve.following import Source, Target
from tests.free_port import free_port
from tests.small_bundle import write_small_bundle
from tests.tiny_dataset import write_tiny_dataset


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workspace = tmp_path_factory.mktemp("workspace")
    return write_small_bundle(workspace, write_tiny_dataset(workspace))


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


@pytest.mark.security
def test_answers_over_http_on_loopback_only(ray_cluster: None, bundle: Path) -> None:
    from ray import serve

    scorer = Scorer.load(bundle)
    serving = ServingConfig(port=free_port())
    items = [f"i{n}" for n in range(1, 41)]
    try:
        main = Source(first=Target(folder=bundle, version="films/3"))
        run.start({MAIN_ARM: main}, serving, tolerance=1e-4)
        with httpx.Client(base_url=f"http://127.0.0.1:{serving.port}") as client:
            answer = client.post("/v1/score", json={"user_id": "u4", "item_ids": items})
            refused = client.post("/v1/score", content=b" " * (8 << 20))
        listening = {
            connection.laddr.ip
            for connection in psutil.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == serving.port
        }
    finally:
        serve.shutdown()
    assert answer.json()["model_version"] == "films/3"
    expected = scorer.candidates("u4", items).score_N
    np.testing.assert_allclose(answer.json()["scores"], expected, rtol=0, atol=1e-6)
    assert refused.status_code == 413
    assert listening == {"127.0.0.1"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("send", "number"), [(os.killpg, signal.SIGINT), (os.kill, signal.SIGTERM)], ids=str
)
def test_command_serves_until_told_to_stop(
    bundle: Path, send: Callable[[int, int], None], number: signal.Signals
) -> None:
    port = free_port()
    command = [str(Path(sys.executable).with_name("lorecast")), "serve", "--bundle", str(bundle)]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    server = subprocess.Popen(
        [*command, "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    try:
        assert server.stdout is not None
        assert f"http://127.0.0.1:{port}" in server.stdout.readline()
        curl = server.stdout.readline().removeprefix("try: ")
        assert '"items"' in subprocess.check_output(curl, shell=True, text=True)
        family = psutil.Process(server.pid).children(recursive=True)
        assert family
        send(server.pid, number)
        output, errors = server.communicate(timeout=60)
    finally:
        server.kill()
    assert (server.returncode, output, errors) == (0, "stopping\n", "")
    assert not psutil.wait_procs(family, timeout=10)[1]


def test_says_what_the_arms_do(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arms = {
        "challenger": ArmConfig(model="models:/films@challenger", share=0.1),
        "candidate": ArmConfig(model="models:/films/7", shadow=0.25),
    }
    sources = {
        arm: Source(first=Target(folder=bundle, version=f"films/{number}"))
        for number, arm in enumerate((MAIN_ARM, *arms), start=5)
    }
    run._announce(Scorer.load(bundle).bundle, sources, ServingConfig(arms=arms))
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("serving films/5 at http://127.0.0.1:8000 ")
    assert said[1:3] == [
        "challenger: films/6 answers 0.1 of the users",
        "candidate: films/7 shadows 0.25 of the requests",
    ]


@pytest.mark.bad_input
def test_taken_port_is_named_before_anything_starts(bundle: Path, taken: int) -> None:
    started_s = time.monotonic()
    with pytest.raises(ServingError, match=rf"127\.0\.0\.1:{taken} .*--port"):
        run.run(load_config(None, [f"serving.port={taken}"]), bundle=bundle)
    assert time.monotonic() - started_s < 5


@pytest.mark.bad_input
def test_two_models_are_one_too_many(bundle: Path) -> None:
    with pytest.raises(ServingError, match="give one"):
        run.run(ExperimentConfig(), model="models:/films/3", bundle=bundle)
