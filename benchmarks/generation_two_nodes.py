"""Point 2e: two nodes, an engine on each, one node killed midway."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.generation import (
    ITEMS,
    USERS,
    count_keys,
    num_stored,
    start,
    stored,
    write_experiment,
)
from benchmarks.harness import Outcome

BAR = "two nodes, two engine replicas, one node killed midway: finishes, each key once"
_FACTORS = ["director", "mood"]
_PROMPTS = 2 * (600 + 2000)
_CLUSTER = """
import os, sys, time
from ray.cluster_utils import Cluster
head = {"num_cpus": 1, "object_store_memory": 1 << 29, "include_dashboard": False}
cluster = Cluster(initialize_head=True, head_node_args=head)
second = cluster.add_node(num_cpus=1, object_store_memory=1 << 29, resources={"second": 1})
cluster.wait_for_nodes()
print(cluster.address, flush=True)
for line in sys.stdin:
    if line.strip() == "kill":
        cluster.remove_node(second, allow_graceful=False)
        print("killed", flush=True)
cluster.shutdown()
"""


def measure() -> Outcome:
    with tempfile.TemporaryDirectory(prefix="lorecast-nodes-") as name:
        folder = Path(name)
        fields = [{**field, "factors": _FACTORS} for field in (ITEMS, USERS)]
        cluster = subprocess.Popen(
            [sys.executable, "-c", _CLUSTER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "RAY_BACKEND_LOG_LEVEL": "fatal"},
        )
        assert cluster.stdin is not None
        assert cluster.stdout is not None
        try:
            address = cluster.stdout.readline().strip()
            compute = {"engines": 2, "threads": 1, "engine_batch": 128, "address": address}
            experiment = write_experiment(folder, fields, compute=compute)
            started_s = time.monotonic()
            job = start("generate", str(experiment), log=folder / "run.log")
            while num_stored(experiment) < _PROMPTS // 2:
                if job.poll() is not None:
                    raise SystemExit((folder / "run.log").read_text()[-4000:])
                time.sleep(0.1)
            at_kill = num_stored(experiment)
            nodes_before = _engines_by_node(folder)
            cluster.stdin.write("kill\n")
            cluster.stdin.flush()
            assert cluster.stdout.readline().strip() == "killed"
            code = job.wait(timeout=900)
            seconds = time.monotonic() - started_s
            output = (folder / "run.log").read_text()
        finally:
            cluster.stdin.close()
            cluster.wait(timeout=60)
        if code:
            raise SystemExit(f"generate failed:\n{output[-4000:]}")
        counts = count_keys(stored(experiment))
    return Outcome(
        figure=(
            f"node killed at {at_kill:,} of {_PROMPTS:,}: {counts['keys_once']:,} keys once, "
            f"{counts['keys_twice']} twice"
        ),
        passed=counts["keys_once"] == _PROMPTS and counts["keys_twice"] == 0,
        details={"stored_at_kill": at_kill, "seconds": round(seconds, 1), **counts}
        | {"engines_before_the_kill": nodes_before},
    )


def _engines_by_node(folder: Path) -> int:
    """Blocks that are being answered right now: one an engine."""
    marks = list((folder / "workspace" / "generate").glob("*/prompts/*/*.attempts"))
    parts = list((folder / "workspace" / "knowledge").glob("part-*.parquet"))
    return len(marks) - len(parts)
