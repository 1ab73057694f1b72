"""Ray, started when the first stage needs it and ended by whoever started it."""

import atexit
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lorecast import errors
from lorecast.config import ComputeConfig
from lorecast.errors import ClusterError, LorecastError

_LOCAL_CPU_LABELS = 8
"""Logical CPUs of a local Ray: labels that let small actors live beside an engine on few cores."""
_LOCAL_OBJECT_STORE_BYTES = 1 << 30
_TOLD = re.compile(r"^lorecast\.errors\.(\w+): (.+)$", re.MULTILINE)
"""Our errors at the end of a Python traceback."""


def connect(compute: ComputeConfig) -> None:
    """Attaches to `compute.address`, else RAY_ADDRESS, else starts a local Ray; once a process.

    Raises ConfigError for a cluster whose nodes would not see this machine's copy of a workspace on
    object storage, ClusterError if Ray does not answer or does not start.
    """
    import ray

    if ray.is_initialized():
        return
    # Ray's C++ core writes warnings of its own design to the user's terminal; its log files stay.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    address = compute.address or os.environ.get("RAY_ADDRESS")
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address:
        compute.check_shared(address)
    try:
        if address:
            ray.init(address=address, **quiet)
        else:
            ray.init(
                address="local",
                num_cpus=max(_LOCAL_CPU_LABELS, os.cpu_count() or 1),
                object_store_memory=_LOCAL_OBJECT_STORE_BYTES,
                include_dashboard=False,
                **quiet,
            )
    except Exception as error:  # Ray's errors share no base but this
        raise ClusterError.of_ray(error, address) from error
    atexit.register(ray.shutdown)
    _quieten_ray_data()


def _quieten_ray_data() -> None:
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # Its errors come out as ours.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)


@contextmanager
def our_errors() -> Iterator[None]:
    """What a worker raised from our tree comes out as it was raised."""
    try:
        yield
    except Exception as error:
        ours = our_error(error)
        if ours is None or ours is error:
            raise
        raise ours from error


def our_error(error: BaseException) -> LorecastError | None:
    """The error of our tree inside what a cluster wrapped around it.

    Causes do not survive Ray's pickling, so an error from a worker is known by its traceback.
    """
    pending: list[Any] = [error]
    seen: set[int] = set()
    while pending:
        current = pending.pop()
        if not isinstance(current, BaseException) or id(current) in seen:
            continue
        if isinstance(current, LorecastError):
            return current
        told = _TOLD.findall(str(current))
        if told:
            name, sentence = told[-1]
            kind: type[LorecastError] = getattr(errors, name)
            return kind(sentence)
        seen.add(id(current))
        pending += [current.__cause__, current.__context__, getattr(current, "cause", None)]
        pending += list(getattr(current, "worker_failures", {}).values())
    return None
