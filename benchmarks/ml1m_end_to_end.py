"""Point 1e: MovieLens-1M through the whole main job with three LLMs' item texts, then served.

Two epochs keep it short: the point is that all of it runs, not how well the models do.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from benchmarks.harness import Outcome

BAR = "1,000,209 ratings and 11,026 texts run through all stages and are served; seconds a stage"
_ROOT = Path(__file__).parents[1]
_PORT = 8917
_EPOCHS = 2


def measure() -> Outcome:
    data = Path(os.environ.get("LORECAST_TEST_DATA", _ROOT.parent / "shared" / "data")) / "ml-1m"
    lorecast = str(Path(sys.executable).with_name("lorecast"))
    with tempfile.TemporaryDirectory(prefix="lorecast-ml1m-") as workspace:
        experiment = [
            str(_ROOT / "configs" / "ml-1m.yaml"),
            f"dataset.path={data}",
            f"compute.workspace={workspace}",
            f"serving.port={_PORT}",
            f"training.epochs={_EPOCHS}",
        ]
        started_s = time.monotonic()
        done = subprocess.run(
            [lorecast, "run", *experiment, "--json"], stdout=subprocess.PIPE, text=True, check=True
        )
        run_s = time.monotonic() - started_s
        events = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        stages = [
            {key: event[key] for key in ("stage", "seconds", "summary")}
            for event in events
            if event["event"] == "stage"
        ]
        result = next(event for event in events if event["event"] == "result")
        prepared = _facts(workspace, "prepare")
        generated = _facts(workspace, "generate")
        answer = _serve_and_score([lorecast, "serve", *experiment])
    ratings = prepared["interactions"]
    texts = generated["imported"]
    models = {model["strategy"]: model["test"]["auc"] for model in result["models"]}
    difference = result["differences"][0]
    return Outcome(
        figure=(
            f"{run_s:.0f} s for {ratings:,} ratings and {texts:,} texts; test AUC after {_EPOCHS} "
            f"epochs {models['base']:.4f} base, {models['all_parameters']:.4f} with KSER "
            f"({difference['value']:+.4f} [{difference['low']:+.4f}, {difference['high']:+.4f}])"
        ),
        passed=ratings == 1_000_209 and texts == 11_026 and len(answer["scores"]) == 3,
        details={
            "stages": stages,
            "run_s": round(run_s, 1),
            "models": result["models"],
            "differences": result["differences"],
            "served": answer,
        },
    )


def _facts(workspace: str, stage: str) -> dict[str, Any]:
    manifest = next(Path(workspace, stage).glob("*/manifest.json"))
    facts: dict[str, Any] = json.loads(manifest.read_text())["facts"]
    return facts


def _serve_and_score(command: list[str]) -> dict[str, list[float]]:
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{_PORT}"
        deadline_s = time.monotonic() + 120
        while True:
            try:
                if httpx.get(f"{url}/healthz").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            if time.monotonic() > deadline_s or server.poll() is not None:
                raise SystemExit("the server did not come up")
            time.sleep(1)
        body = {"user_id": "1", "item_ids": ["1193", "1", "2"]}
        answer: dict[str, list[float]] = httpx.post(f"{url}/v1/score", json=body).json()
        return answer
    finally:
        server.terminate()
        server.wait(60)
