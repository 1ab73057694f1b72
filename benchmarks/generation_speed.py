"""Point 2a: `lorecast generate` against a plain `vllm.LLM.chat` script, same arguments and prompts.

Both take turns in processes of their own on the same prompts; start-up is left out on both sides:
the script's clock starts after a first small batch, the job's counts the seconds inside engines.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.generation import ITEMS, USERS, generate, write_experiment
from benchmarks.harness import Outcome
from lorecast.config import load_config
from lorecast.data.dataset import Dataset
from lorecast.jobs.console import Console
from lorecast.jobs.engines import find_model
from lorecast.jobs.pipeline import Pipeline
from lorecast.jobs.vllm_engine import environment
from lorecast.knowledge.plan import Plan

BAR = "rows/s in steady state ≥ 0.9 × a plain vllm.LLM.chat script, one engine, ≥ 5,000 prompts"
_BAR_RATIO = 0.9
_TURNS = 3
_FACTORS = ["director", "mood", "theme"]
_THREADS = 2
_LARGER_BLOCK = 2048


def measure() -> Outcome:
    turns = []
    with tempfile.TemporaryDirectory(prefix="lorecast-speed-") as name:
        folder = Path(name)
        compute = {"engines": 1, "threads": _THREADS}
        fields = [{**field, "factors": _FACTORS} for field in (ITEMS, USERS)]
        prompts = folder / "prompts.json"
        for turn in range(_TURNS):
            of_turn = folder / str(turn)
            of_turn.mkdir()
            experiment = write_experiment(of_turn, fields, compute=compute)
            if turn == 0:
                prompts.write_text(json.dumps(_chats(experiment)))
            script = _script(prompts)
            facts = generate(experiment).facts
            turns.append(
                {
                    "script": script,
                    "generate": {
                        "rows": facts["generated"],
                        "rows_per_s": facts["engine_rows_per_second"],
                        "tokens_per_s": facts["engine_tokens_per_second"],
                        "whole_stage_s": facts["seconds"],
                    },
                    "ratio": facts["engine_rows_per_second"] / script["rows_per_s"],
                }
            )
        of_turn = folder / "larger"
        of_turn.mkdir()
        larger = {**compute, "engine_batch": _LARGER_BLOCK}
        facts = generate(write_experiment(of_turn, fields, compute=larger)).facts
        larger_blocks = facts["engine_rows_per_second"] / turns[-1]["script"]["rows_per_s"]
    ratio = median(turn["ratio"] for turn in turns)
    ours = median(turn["generate"]["rows_per_s"] for turn in turns)
    tokens = median(turn["generate"]["tokens_per_s"] for turn in turns)
    return Outcome(
        figure=(
            f"{ratio:.2f} × LLM.chat (median of {_TURNS} turns; {ours:,.0f} rows/s, "
            f"{tokens:,.0f} tokens/s)"
        ),
        passed=ratio >= _BAR_RATIO,
        details={
            "turns": turns,
            "ratio_with_larger_blocks": {str(_LARGER_BLOCK): larger_blocks},
            "bounded_by": "vLLM's own steps on the cores: what the job adds stays within the noise "
            f"of the turns, and blocks of {_LARGER_BLOCK:,} prompts gave {larger_blocks:.2f} ×",
        },
    )


def _chats(experiment: Path) -> list[Any]:
    """The prompts of the job, in its order."""
    config = load_config(experiment)
    dataset: Dataset = Pipeline(config, Console(quiet=True)).dataset
    plan = Plan.of(config, dataset, find_model(config).digest)
    return [json.loads(chat) for block in plan.blocks() for chat in block["chat"].to_pylist()]


def _script(prompts: Path) -> dict[str, float]:
    variables = {
        "OMP_NUM_THREADS": str(_THREADS),
        "OMP_WAIT_POLICY": "PASSIVE",
        **environment(find_model(load_config(None, [])), 0),
        "VLLM_LOGGING_LEVEL": "ERROR",
    }
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.generation_speed", str(prompts)],
        env={**os.environ, **variables},
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def _plain_script(prompts: Path) -> None:
    """What a user would write: LLM, SamplingParams, chat."""
    from vllm import LLM, SamplingParams

    from lorecast.world import llm_path

    chats = json.loads(prompts.read_text())
    llm = LLM(
        str(llm_path()),
        max_model_len=256,
        dtype="bfloat16",
        seed=0,
        enable_prefix_caching=True,
        disable_log_stats=True,
        enforce_eager=True,
        max_num_seqs=256,
        block_size=32,
    )
    sampling = SamplingParams(temperature=0.0, max_tokens=32)
    llm.chat(chats[:64], sampling, use_tqdm=False)
    started_s = time.monotonic()
    outputs = llm.chat(chats, sampling, use_tqdm=False)
    seconds = time.monotonic() - started_s
    tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
    print(
        json.dumps(
            {
                "rows": len(chats),
                "rows_per_s": len(chats) / seconds,
                "tokens_per_s": tokens / seconds,
            }
        )
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompts", type=Path)
    _plain_script(parser.parse_args().prompts)
