"""The README's commands, run as they stand."""

import re
import shlex
import subprocess
import time
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import pytest

from tests.free_port import free_port
from tests.main_job import COMMAND, REPOSITORY, environment, lorecast

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(line, comments=True)
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
]


def _own_data(words: str) -> list[str]:
    """The command of the section on own data that begins with these words."""
    (command,) = [c for c in COMMANDS if c[:2] == ["lorecast", words]]
    return command[1:]


@pytest.mark.parametrize("command", [c for c in COMMANDS if c[0] == "make"], ids=" ".join)
def test_make_commands_exist(command: list[str]) -> None:
    known = subprocess.run(["make", "--dry-run", *command[1:]], cwd=REPOSITORY, capture_output=True)
    assert known.returncode == 0


def test_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(targets) > 5
    assert [t for t in targets if "://" not in t and not (REPOSITORY / t).exists()] == []


@pytest.fixture(scope="module")
def own_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shop's orders and products, in a folder as the README wants it."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "tables").mkdir()
    rng = np.random.default_rng(0)
    orders = pd.DataFrame(
        {
            "customer": rng.integers(0, 200, 5000).astype(str),
            "product": rng.integers(0, 90, 5000),
            "stars": rng.integers(1, 6, 5000),
            "time": np.sort(rng.integers(1_700_000_000, 1_710_000_000, 5000)),
        }
    )
    orders.to_csv(folder / "tables" / "orders.csv", index=False)
    products = pd.DataFrame({"product": range(90), "name": [f"Product {i}" for i in range(90)]})
    products.to_parquet(folder / "tables" / "products.parquet")
    return folder


def test_own_data_from_tables_to_answers(own_folder: Path) -> None:
    written = lorecast(*_own_data("init"), cwd=own_folder)
    assert written.code == 0, written.stderr
    ran = lorecast(*_own_data("run"), "training.epochs=1", cwd=own_folder)
    assert ran.code == 0, ran.stderr
    assert "Registered" in ran.stdout
    port = free_port()
    command = [COMMAND, *_own_data("serve"), "--port", str(port)]
    server = subprocess.Popen(command, cwd=own_folder, env=environment(), stdout=subprocess.DEVNULL)
    try:
        answer = _first_answer(f"http://127.0.0.1:{port}/v1/rank", {"user_id": "7", "k": 3})
    finally:
        server.terminate()
        assert server.wait(60) in (0, 130)  # 130 if it was still starting its last parts
    assert len(answer["items"]) == 3
    assert answer["unknown"]["user_ids"] == []


def _first_answer(url: str, body: dict[str, object], timeout_s: float = 120) -> dict[str, object]:
    deadline_s = time.monotonic() + timeout_s
    while True:
        try:
            return dict(httpx.post(url, json=body).raise_for_status().json())
        except (httpx.TransportError, httpx.HTTPStatusError):
            if time.monotonic() > deadline_s:
                raise
            time.sleep(1)
