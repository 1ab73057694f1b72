"""Ray, started when the first stage needs it and ended by whoever started it."""

import atexit
import logging
import os

from lorecast.config import ComputeConfig

_LOCAL_CPU_LABELS = 8
"""Logical CPUs of a local Ray: labels that let small actors live beside an engine on few cores."""
_LOCAL_OBJECT_STORE_BYTES = 1 << 30


def connect(compute: ComputeConfig) -> None:
    """Attaches to `compute.address`, else RAY_ADDRESS, else starts a local Ray; once a process."""
    import ray

    if ray.is_initialized():
        return
    address = compute.address or os.environ.get("RAY_ADDRESS")
    if address:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    else:
        ray.init(
            address="local",
            num_cpus=max(_LOCAL_CPU_LABELS, os.cpu_count() or 1),
            object_store_memory=_LOCAL_OBJECT_STORE_BYTES,
            include_dashboard=False,
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
    atexit.register(ray.shutdown)
    _quieten_ray_data()


def _quieten_ray_data() -> None:
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
