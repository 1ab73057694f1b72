"""Point 5h: five times what the endpoint can answer, for a minute.

Capacity is what eight clients get that wait for their answers. Then requests arrive at half of it,
at five times, and at half again. Goodput is answers with scores a second; recovery the time from
the end of the overload until requests are answered again as before it.

A request has 2,000 candidates, so that scoring is what is scarce; as they are long, few may wait
(`serving.max_queued`). The client, the proxy and the replica share the machine.
"""

import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.harness import Outcome
from benchmarks.load import Answers, Load, closed_loop
from benchmarks.served_world import ServedWorld, endpoint, resident_mib
from benchmarks.server import serving

BAR = (
    "5 × capacity for 60 s: goodput ≥ 80 % of capacity, the rest 503 with Retry-After; recovery in "
    "seconds; memory flat"
)
CANDIDATES, OVERLOAD, SECONDS = 2000, 5.0, 60.0
MAX_QUEUED = 16
_CAPACITY_CLIENTS, _CAPACITY_S, _CALM_S = 8, 20.0, 30.0
_SETTLE_S = 2.0
"""Of the overload's start, in which queues fill up."""
_GROWTH_MIB = 100.0
_RECOVERY_S = 5.0


def measure() -> Outcome:
    with tempfile.TemporaryDirectory(prefix="lorecast-overload-") as name:
        folder = Path(name)
        world = ServedWorld.made(folder, f"serving.max_queued={MAX_QUEUED}")
        found = overload(world, folder, seconds=SECONDS, calm_s=_CALM_S)
    return Outcome(
        figure=(
            f"capacity {found['capacity']}/s; at {OVERLOAD:g} × for {SECONDS:g} s goodput "
            f"{100 * found['goodput_share']:.0f} % of it, {found['refused']:,} refused in p50 "
            f"{found['p50_ms_of_refusals']} ms, {found['other']} others; recovered after "
            f"{found['recovery_s']} s; memory {found['growth_mib']:+.0f} MiB"
        ),
        passed=(
            found["goodput_share"] >= 0.8
            and found["other"] == 0
            and found["refusals_without_retry_after"] == 0
            and found["recovery_s"] <= _RECOVERY_S
            and found["growth_mib"] <= _GROWTH_MIB
        ),
        details=found,
    )


def overload(world: ServedWorld, folder: Path, *, seconds: float, calm_s: float) -> dict[str, Any]:
    """Calm, overload, calm; what became of the requests."""
    bodies = world.bodies(CANDIDATES, 16)
    with serving(*world.experiment) as address:
        server = endpoint()
        closed_loop(address, bodies[0], _CAPACITY_CLIENTS, _CAPACITY_S / 4)
        capacity = closed_loop(address, bodies[0], _CAPACITY_CLIENTS, _CAPACITY_S)
        phases = [(capacity / 2, calm_s), (OVERLOAD * capacity, seconds), (capacity / 2, calm_s)]
        load = Load(address, phases, bodies, folder)
        with _Memory(server) as memory:
            answers = load.answers()
    begin_s = load.begin_s + calm_s
    before = _due(answers, load.begin_s + calm_s / 3, begin_s)
    during = _due(answers, begin_s + _SETTLE_S, begin_s + seconds)
    after = _due(answers, begin_s + seconds, np.inf)
    refused = answers.where(answers.status_R == 503)
    answered = int(
        (answers.ok_R & (answers.end_s_R >= begin_s) & (answers.end_s_R < begin_s + seconds)).sum()
    )
    return {
        "capacity": round(capacity, 1),
        "offered": round(OVERLOAD * capacity, 1),
        "goodput": round(answered / seconds, 1),
        "goodput_share": round(answered / seconds / capacity, 3),
        "requests": len(answers),
        "refused": len(refused),
        "refusals_without_retry_after": int((~refused.retry_after_R).sum()),
        "other": int((~answers.ok_R).sum()) - len(refused),
        "p50_ms_before": round(before.p_ms(0.5), 1),
        "p99_ms_before": round(before.p_ms(0.99), 1),
        "p50_ms_during": round(during.p_ms(0.5), 1),
        "p99_ms_during": round(during.p_ms(0.99), 1),
        "p50_ms_of_refusals": round(1000 * float(np.median(refused.latency_s_R)), 1),
        "p99_ms_of_refusals": round(1000 * float(np.quantile(refused.latency_s_R, 0.99)), 1),
        "recovery_s": round(_recovery_s(after, begin_s + seconds, before.p_ms(0.99)), 2),
        "memory_mib": [round(mib) for mib in memory.mib],
        "growth_mib": round(memory.growth, 1),
    }


class _Memory:
    """Resident memory of the endpoint, every second while the block runs."""

    def __init__(self, server: psutil.Process) -> None:
        self._server = server
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.mib: list[float] = []

    @property
    def growth(self) -> float:
        """From the middle to the end, once pools are filled."""
        half = len(self.mib) // 2
        return self.mib[-1] - self.mib[half]

    def __enter__(self) -> "_Memory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(1.0):
            self.mib.append(resident_mib(self._server))


def _due(answers: Answers, begin_s: float, end_s: float) -> Answers:
    return answers.where((answers.due_s_R >= begin_s) & (answers.due_s_R < end_s))


def _recovery_s(after: Answers, end_s: float, usual_ms: float) -> float:
    """Seconds until the last refusal, or answer slower than twice what was usual at most before."""
    disturbed_R = ~after.ok_R | (after.latency_s_R > 2 * usual_ms / 1000)
    calm_after_R = np.cumsum(disturbed_R[::-1])[::-1]
    few = max(1, len(after) // 50)  # one in fifty may be slow at any time
    last = after.due_s_R[calm_after_R > few]
    return float(last.max() - end_s) if last.size else 0.0
