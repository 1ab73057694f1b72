"""The history leads and the aliases follow, also where several promote at once."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lorecast.errors import PromotionError, RegistryError
from lorecast.lifecycle.history import (
    Action,
    History,
    Record,
    current,
    enrol,
    move,
    rollback,
    settle,
)
from lorecast.lifecycle.mlflow_registry import MLflowRegistry
from lorecast.lifecycle.registry import (
    CHALLENGER,
    CHAMPION,
    PREVIOUS,
    InMemoryRegistry,
    Registry,
    RunRecord,
)
from tests.free_port import free_port

RUN = RunRecord(name="a run", params={}, metrics={}, curves=[], tags={}, plots=[])
Make = Callable[[Registry, str, int], Registry]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Registers so many versions of a model."""
    bundle = tmp_path / "made"
    bundle.mkdir()
    (bundle / "bundle.json").write_text('{"contexts": {}}')

    def call(registry: Registry, model: str, versions: int) -> Registry:
        for number in range(1, versions + 1):
            enrol(registry, model, bundle, RUN, f"print-{number}")
        return registry

    return call


def promote(registry: Registry, version: int, over: int, action: Action = "promoted") -> History:
    return move(registry, Record(action=action, version=version, reason="why"), "m", over)


def test_promotions_stack_and_rollbacks_unstack(make: Make) -> None:
    registry = make(InMemoryRegistry(), "m", 3)
    promote(registry, 2, over=1)
    promote(registry, 3, over=2)
    assert registry.aliases("m") == {CHALLENGER: 3, CHAMPION: 3, PREVIOUS: 2}
    rollback(registry, "m", "slow")
    assert registry.aliases("m") == {CHALLENGER: 3, CHAMPION: 2, PREVIOUS: 1}
    rollback(registry, "m", "slow still")
    assert registry.aliases("m") == {CHALLENGER: 3, CHAMPION: 1}
    with pytest.raises(PromotionError, match="nothing to roll back to: version 1"):
        rollback(registry, "m", "")
    past = History.read(registry, "m")
    assert [(r.action, r.version) for r in past.records] == [
        ("first", 1),
        ("promoted", 2),
        ("promoted", 3),
        ("rolled back", 2),
        ("rolled back", 1),
    ]


def test_a_refusal_is_kept_and_moves_nothing(make: Make) -> None:
    registry = make(InMemoryRegistry(), "m", 2)
    past = promote(registry, 2, over=1, action="refused")
    assert (past.champion, past.previous, past.records[-1].reason) == (1, None, "why")
    assert registry.aliases("m") == {CHALLENGER: 2, CHAMPION: 1}


def test_who_compared_with_another_champion_changes_nothing(make: Make) -> None:
    registry = make(InMemoryRegistry(), "m", 3)
    promote(registry, 2, over=1)
    with pytest.raises(PromotionError, match="version 2 by now, not 1"):
        promote(registry, 3, over=1)
    assert History.read(registry, "m").served == [1, 2]


def test_a_command_that_broke_off_is_put_right(make: Make) -> None:
    registry = make(InMemoryRegistry(), "m", 2)
    assert registry.append("m", 1, Record(action="promoted", version=2, reason="").text())
    assert registry.aliases("m")[CHAMPION] == 1
    assert current(registry, "m").champion == 2
    assert registry.aliases("m") == {CHALLENGER: 2, CHAMPION: 2, PREVIOUS: 1}


def test_a_champion_older_than_histories_begins_one(make: Make) -> None:
    registry = make(InMemoryRegistry(), "m", 2)
    assert isinstance(registry, InMemoryRegistry)
    registry._records.clear()
    registry.set_alias(registry.resolve("m", 2), CHAMPION)
    assert current(registry, "m").served == [2]
    registry._records.clear()
    registry.drop_alias("m", CHAMPION)
    with pytest.raises(RegistryError, match="no alias 'champion'"):
        current(registry, "m")


def test_a_long_reason_is_cut(make: Make) -> None:
    registry = make(InMemoryRegistry(), "m", 2)
    record = Record(action="forced", version=2, reason="é" * 5000)
    assert len(move(registry, record, "m", 1).records[-1].reason) == 1500


_AT_ONCE = """
import sys
from lorecast.errors import PromotionError
from lorecast.lifecycle.history import History, Record, move
from lorecast.lifecycle.mlflow_registry import MLflowRegistry

registry = MLflowRegistry(tracking_uri=sys.argv[1], experiment="tests")
History.read(registry, "race")  # MLflow is imported
print("ready", flush=True)
sys.stdin.readline()
won = 0
for turn in range(6):
    champion = History.read(registry, "race").champion
    record = Record(action="promoted", version=5 - champion, reason=sys.argv[2])
    try:
        move(registry, record, "race", champion)
        won += 1
    except PromotionError:
        pass
print(won)
"""


def test_two_processes_leave_one_truth(make: Make, mlflow_registry: MLflowRegistry) -> None:
    _race(make(mlflow_registry, "race", 3))


@pytest.mark.slow
def test_two_processes_over_a_server(make: Make, tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(port)]
    store = ["--backend-store-uri", f"sqlite:///{tmp_path / 'server.db'}"]
    files = ["--artifacts-destination", str(tmp_path / "files")]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            [*command, *store, *files], stdout=log, stderr=log, start_new_session=True
        )
    registry = MLflowRegistry(tracking_uri=f"http://127.0.0.1:{port}", experiment="tests")
    try:
        deadline_s = time.monotonic() + 120
        while True:
            try:
                registry.check()
                break
            except RegistryError:
                assert time.monotonic() < deadline_s
                time.sleep(0.5)
        _race(make(registry, "race", 3))
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def _race(registry: MLflowRegistry) -> None:
    """Each process promotes again and again what does not serve; begun at once, they meet."""
    move(registry, Record(action="promoted", version=2, reason=""), "race", 1)
    command = [sys.executable, "-c", _AT_ONCE, registry.tracking_uri]
    processes = [
        subprocess.Popen([*command, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for name in ("one", "other")
    ]
    for process in processes:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    won = [int(process.communicate(timeout=120)[0]) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    past = History.read(registry, "race")
    assert sum(won) == len(past.records) - 2
    assert min(won) > 0, "neither was kept out"
    # Each promotion went over the champion it had seen: 2 and 3 take turns.
    assert [r.version for r in past.records[2:]] == [3, 2] * (sum(won) // 2) + [3] * (sum(won) % 2)
    pointed = {CHALLENGER: 3, CHAMPION: past.champion, PREVIOUS: past.previous}
    assert registry.aliases("race") == pointed
    assert settle(registry, "race") == past
