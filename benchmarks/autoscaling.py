"""Point 5g: the load grows eightfold and falls back; replicas follow, and no request fails.

Requests of 2,000 candidates, from one replica up to four. The machine's cores bound what replicas
add; what is measured is when they come and go, and that nobody notices.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks.harness import Outcome
from benchmarks.load import Load
from benchmarks.served_world import ServedWorld, endpoint, replicas
from benchmarks.server import serving

BAR = "load × 8 and back: replicas follow, no failed request; time to scale stated"
CANDIDATES, RATE, GROWTH, MAX_REPLICAS = 2000, 4.0, 8.0, 4
CALM_S, BUSY_S, AFTER_S = 30.0, 90.0, 150.0
_TARGET_ONGOING = 0.3


def measure() -> Outcome:
    with tempfile.TemporaryDirectory(prefix="lorecast-autoscaling-") as name:
        folder = Path(name)
        world = ServedWorld.made(
            folder,
            f"serving.max_replicas={MAX_REPLICAS}",
            f"serving.target_ongoing={_TARGET_ONGOING}",
        )
        found = scaled(world, folder, phases=[CALM_S, BUSY_S, AFTER_S])
    return Outcome(
        figure=(
            f"{found['requests']:,} requests, {found['failed']} failed; "
            f"{found['replicas_before']} → {found['replicas_most']} replicas, the first "
            f"more after {found['up_s']} s, the most after {found['most_s']} s; "
            f"back to {found['replicas_last']} after {found['down_s']} s"
        ),
        passed=(
            found["failed"] == 0
            and found["replicas_before"] == found["replicas_last"] == 1
            and found["replicas_most"] > 1
        ),
        details=found,
    )


def scaled(world: ServedWorld, folder: Path, *, phases: list[float]) -> dict[str, Any]:
    """Calm, eight times the rate, calm, of so many seconds; what replicas and requests did."""
    calm_s, busy_s, _ = phases
    rates = [RATE, GROWTH * RATE, RATE]
    with serving(*world.experiment) as address:
        load = Load(
            address, list(zip(rates, phases, strict=True)), world.bodies(CANDIDATES, 16), folder
        )
        seen = _watch(endpoint(), load.begin_s + sum(phases))
        answers = load.answers()
    up_s, down_s = load.begin_s + calm_s, load.begin_s + calm_s + busy_s
    before = [count for at_s, count in seen if at_s < up_s]
    most = max(count for _, count in seen)
    busy = answers.where((answers.due_s_R >= up_s) & (answers.due_s_R < down_s))
    calm = answers.where((answers.due_s_R < up_s) & (answers.due_s_R >= load.begin_s + calm_s / 3))
    return {
        "requests": len(answers),
        "failed": int((~answers.ok_R).sum()),
        "failures": [
            {"s": round(float(due_s - load.begin_s), 1), "status": int(status)}
            for due_s, status in zip(
                answers.due_s_R[~answers.ok_R], answers.status_R[~answers.ok_R], strict=True
            )
        ],
        "rates": rates,
        "replicas_before": before[-1],
        "replicas_most": most,
        "replicas_last": seen[-1][1],
        "up_s": _since(seen, up_s, lambda count: count > before[-1]),
        "most_s": _since(seen, up_s, lambda count: count == most),
        "down_s": _since(seen, down_s, lambda count: count == before[-1]),
        "p99_ms_calm": round(calm.p_ms(0.99), 1),
        "p50_ms_busy": round(busy.p_ms(0.5), 1),
        "p99_ms_busy": round(busy.p_ms(0.99), 1),
    }


def _watch(server: psutil.Process, end_s: float) -> list[tuple[float, int]]:
    """(moment, replicas), every half second."""
    seen = []
    while (now_s := time.monotonic()) < end_s:
        seen.append((now_s, len(replicas(server))))
        time.sleep(0.5)
    return seen


def _since(
    seen: Sequence[tuple[float, int]], moment_s: float, holds: Callable[[int], bool]
) -> float | None:
    """Seconds from this moment until the number of replicas was so, or none."""
    found = [at_s - moment_s for at_s, count in seen if at_s >= moment_s and holds(count)]
    return round(found[0], 1) if found else None
