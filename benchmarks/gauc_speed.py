"""Point 3h: GAUC, lorecast's against FuxiCTR's, rows/s.

Random users, clicks and scores, ten rows a user, some of whose scores tie. FuxiCTR (pandas groups,
a pool of half the machine's cores, scikit-learn) gets 100,000 rows, on which both must agree: ten
million would take it the better part of an hour. lorecast, one thread, gets both. They take turns.
"""

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks import peers
from benchmarks.harness import Outcome
from lorecast.evaluation.metrics import gauc

BAR = "GAUC of 10 M rows and 1 M users at ≥ 100 × FuxiCTR's rows/s (100 k rows), equal to 1e-12"
_BAR_RATIO, _TOLERANCE = 100, 1e-12
_LARGE, _SMALL, _ROWS_A_USER = 10_000_000, 100_000, 10
_REPEATS = 3
_LEVELS = 100
"""Different scores: of a user's ten, two or more are equal in a third of all users."""


def measure() -> Outcome:
    fuxictr = peers.checkout(peers.FUXICTR)
    large, small = _rows(_LARGE), _rows(_SMALL)
    turns, differences = [], []
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "rows.npz"
        np.savez(file, **small._asdict())
        for _ in range(_REPEATS):
            theirs = peers.drive("fuxictr_gauc.py", fuxictr, {"file": str(file)})
            _, large_s = _ours(large)
            value, small_s = _ours(small)
            differences.append(abs(value - theirs["gauc"]))
            turns.append(
                {
                    "lorecast_large_s": large_s,
                    "lorecast_small_s": small_s,
                    "fuxictr_small_s": theirs["seconds"],
                    "ratio": (_LARGE / large_s) / (_SMALL / theirs["seconds"]),
                    "ratio_small": theirs["seconds"] / small_s,
                }
            )
    ratio = median(turn["ratio"] for turn in turns)
    large_s = median(turn["lorecast_large_s"] for turn in turns)
    return Outcome(
        figure=f"{ratio:,.0f} × FuxiCTR's rows/s; {_LARGE:,} rows in {large_s:.1f} s; "
        f"difference {max(differences):.1e}",
        passed=ratio >= _BAR_RATIO and max(differences) <= _TOLERANCE,
        details={
            "turns": turns,
            "max_difference": max(differences),
            "rows": {"large": _LARGE, "small": _SMALL, "a_user": _ROWS_A_USER},
            "fuxictr": peers.identity(fuxictr),
            "peers_versions": peers.versions(),
        },
    )


class _Rows(NamedTuple):
    user: NDArray[np.int64]
    label: NDArray[np.float64]
    score: NDArray[np.float64]


def _rows(number: int) -> _Rows:
    random = np.random.default_rng(0)
    return _Rows(
        user=random.integers(0, number // _ROWS_A_USER, number),
        label=random.integers(0, 2, number).astype(np.float64),
        score=random.integers(0, _LEVELS, number) / _LEVELS,
    )


def _ours(rows: _Rows) -> tuple[float, float]:
    """(GAUC, seconds)."""
    started_s = time.perf_counter()
    value = gauc(*rows)
    return value, time.perf_counter() - started_s
