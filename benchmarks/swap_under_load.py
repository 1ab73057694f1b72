"""Point 5f: promotions and rollbacks under load; a replica killed; a node killed.

A real `lorecast serve` follows the registry with two replicas, while requests of 100 candidates
arrive at a set rate. Every answer must be what the version that it names gives. A swap's window
begins when the alias moves and ends a second after the last answer of the version before.

The replica and the node are killed with SIGKILL. What may fail are the requests that were under way
at that moment; the endpoint runs on a cluster of two nodes of one machine for the latter, one
replica each.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Outcome
from benchmarks.load import Answers, Load
from benchmarks.served_world import ServedWorld, endpoint, replicas
from benchmarks.server import serving

BAR = (
    "≥ 10 swaps and ≥ 10 rollbacks under load: 0 failed requests, every answer of the version it "
    "names, p99 in their windows ≤ 1.5 × outside; a replica or a node killed: no more failures "
    "than requests under way"
)
MOVES, PERIOD_S, RATE, CANDIDATES = 24, 8.0, 40.0, 100
_WARM_UP_S = 20.0
_KILL_S = 20.0
_AFTER_KILL_S = 40.0
_SAME = 1e-5
_SLACK_S = 1.0
_CLUSTER = """
import sys
from ray.cluster_utils import Cluster
node = {"num_cpus": 1, "object_store_memory": 1 << 28}
cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
second = cluster.add_node(**node)
cluster.wait_for_nodes()
print(cluster.address, flush=True)
for line in sys.stdin:
    cluster.remove_node(second, allow_graceful=False)
    print("killed", flush=True)
cluster.shutdown()
"""


def measure() -> Outcome:
    with tempfile.TemporaryDirectory(prefix="lorecast-swap-") as name:
        folder = Path(name)
        world = ServedWorld.made(folder, "serving.follow_s=1", "serving.replicas=2")
        moved = swaps(world, folder, moves=MOVES, period_s=PERIOD_S, rate=RATE)
        replica = replica_killed(world, folder, rate=RATE)
        node = node_killed(world, folder, rate=RATE)
    killed = {"replica": replica, "node": node}
    return Outcome(
        figure=(
            f"{moved['moves']} swaps and rollbacks, {moved['requests']:,} requests: "
            f"{moved['failed']} failed, {moved['wrong']} of another version than they name; p99 "
            f"{moved['p99_ms_in_windows']} ms in windows, {moved['p99_ms_outside']} ms outside; "
            + ", ".join(
                f"{what} killed: {found['failed']} failed of {found['under_way']} under way"
                for what, found in killed.items()
            )
        ),
        passed=(
            moved["failed"] == moved["wrong"] == 0
            and moved["followed"]
            and moved["p99_ratio"] <= 1.5
            and all(f["failed"] <= f["under_way"] and f["recovered"] for f in killed.values())
        ),
        details={"swaps": moved, **killed},
    )


def swaps(
    world: ServedWorld, folder: Path, *, moves: int, period_s: float, rate: float
) -> dict[str, Any]:
    """Promotes and rolls back in turn; what the requests saw of it."""
    bodies = world.bodies(CANDIDATES, 64)
    with serving(*world.experiment) as address:
        seconds = _WARM_UP_S + moves * period_s + _SLACK_S
        load = Load(address, [(rate, seconds)], bodies, folder)
        begun_s = []
        for move in range(moves):
            _sleep_until(load.begin_s + _WARM_UP_S + move * period_s)
            begun_s.append(time.monotonic())
            (world.rollback if move % 2 else world.promote)(move)
        answers = load.answers()
    answers = answers.where(answers.due_s_R >= load.begin_s + _WARM_UP_S / 2)
    windows = [
        _window(answers, begin_s, f"{world.model}/{2 if move % 2 else 1}", period_s)
        for move, begin_s in enumerate(begun_s)
    ]
    inside_R = np.zeros(len(answers), np.bool_)
    for begin_s, end_s in windows:
        inside_R |= (answers.due_s_R >= begin_s) & (answers.due_s_R < end_s)
    inside, outside = answers.where(inside_R), answers.where(~inside_R)
    took_s = [end_s - begin_s - _SLACK_S for begin_s, end_s in windows]
    return {
        "moves": moves,
        "requests": len(answers),
        "failed": int((~answers.ok_R).sum()),
        "wrong": _wrong(answers, world, bodies),
        "followed": bool(max(took_s) < period_s - _SLACK_S),
        "seconds_until_all_answer_newly": [round(took, 2) for took in took_s],
        "requests_in_windows": len(inside),
        "p50_ms_in_windows": round(inside.p_ms(0.5), 2),
        "p50_ms_outside": round(outside.p_ms(0.5), 2),
        "p99_ms_in_windows": round(inside.p_ms(0.99), 2),
        "p99_ms_outside": round(outside.p_ms(0.99), 2),
        "p99_ratio": round(inside.p_ms(0.99) / outside.p_ms(0.99), 3),
        "max_ms_in_windows": round(inside.p_ms(1.0), 2),
        "max_ms_outside": round(outside.p_ms(1.0), 2),
    }


def replica_killed(world: ServedWorld, folder: Path, *, rate: float) -> dict[str, Any]:
    """One of two replicas gets SIGKILL."""
    with serving(*world.experiment) as address:
        server = endpoint()

        def kill() -> None:
            os.kill(replicas(server)[0].pid, signal.SIGKILL)

        return _killed(world, folder, address, rate, kill)


def node_killed(world: ServedWorld, folder: Path, *, rate: float) -> dict[str, Any]:
    """The second of two nodes, with one of two replicas, is lost."""
    with _cluster() as (at, kill), serving(*world.experiment, f"compute.address={at}") as address:
        return _killed(world, folder, address, rate, kill)


def _killed(
    world: ServedWorld,
    folder: Path,
    address: tuple[str, int],
    rate: float,
    kill: Callable[[], None],
) -> dict[str, Any]:
    load = Load(address, [(rate, _KILL_S + _AFTER_KILL_S)], world.bodies(CANDIDATES, 64), folder)
    _sleep_until(load.begin_s + _KILL_S)
    killed_s = time.monotonic()
    kill()
    answers = load.answers()
    failed = answers.where(~answers.ok_R)
    under_way_R = (answers.due_s_R <= killed_s) & (answers.end_s_R >= killed_s)
    last = answers.where(answers.due_s_R >= load.begin_s + _KILL_S + _AFTER_KILL_S / 2)
    return {
        "requests": len(answers),
        "failed": len(failed),
        "statuses_of_failed": sorted(set(failed.status_R.tolist())),
        "under_way": int(under_way_R.sum()),
        "failed_seconds_after": [round(float(t), 3) for t in failed.due_s_R - killed_s],
        "slowest_ms": round(1000 * float(answers.latency_s_R.max())),
        "recovered": bool(last.ok_R.all()),
    }


def _window(answers: Answers, begin_s: float, old: str, period_s: float) -> tuple[float, float]:
    """From the move until a second after the last answer of the old version."""
    since = answers.where((answers.due_s_R >= begin_s) & (answers.due_s_R < begin_s + period_s))
    of_old = since.due_s_R[since.version_R == old]
    return begin_s, (of_old.max() if of_old.size else begin_s) + _SLACK_S


def _wrong(answers: Answers, world: ServedWorld, bodies: Sequence[dict[str, Any]]) -> int:
    """Answers whose score is not that of the version that they name."""
    expected = world.first_scores(bodies)
    wrong = 0
    for version in set(answers.version_R[answers.ok_R].tolist()):
        named = answers.where(answers.version_R == version)
        off_R = np.abs(named.score_R - expected[version][named.body_R])
        wrong += int((off_R > _SAME).sum())
    return wrong


@contextmanager
def _cluster() -> Iterator[tuple[str, Callable[[], None]]]:
    """(address of a cluster of two nodes, what kills the second)."""
    cluster = subprocess.Popen(
        [sys.executable, "-c", _CLUSTER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert cluster.stdin is not None
    assert cluster.stdout is not None

    def kill() -> None:
        assert cluster.stdin is not None
        assert cluster.stdout is not None
        cluster.stdin.write("kill\n")
        cluster.stdin.flush()
        if cluster.stdout.readline().strip() != "killed":
            raise SystemExit("the cluster ended before its second node was killed")

    try:
        address = cluster.stdout.readline().strip()
        if not address:
            raise SystemExit("the cluster did not start")
        yield address, kill
    finally:
        cluster.stdin.close()
        cluster.wait(timeout=120)


def _sleep_until(moment_s: float) -> None:
    time.sleep(max(0.0, moment_s - time.monotonic()))
