"""Ray's own vLLM processor stores what our actors store, over-long prompts and all."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lorecast.config import (
    ComputeConfig,
    ExperimentConfig,
    GeneratedField,
    KnowledgeConfig,
    LLMConfig,
)
from lorecast.data.dataset import Dataset
from lorecast.jobs import generate
from lorecast.jobs.console import Console

COMPARED = ["side", "row", "factor", "text", "status", "prompt_tokens", "output_tokens"]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_both_runners_store_the_same(
    make_tiny_dataset: Callable[..., Dataset], tmp_path: Path
) -> None:
    dataset = make_tiny_dataset(num_users=12, num_items=12)
    knowledge = KnowledgeConfig(
        fields=(GeneratedField(name="taste", side="user", factors=("director", "mood")),),
        llm=LLMConfig(model="world", max_model_len=64, max_tokens=24),
        error_budget=1.0,
    )

    def run(runner: str) -> pa.Table:
        compute = ComputeConfig(
            workspace=str(tmp_path / runner), engine_runner=runner, engine_batch=10, threads=1
        )
        config = ExperimentConfig(knowledge=knowledge, compute=compute)
        artifact = generate.run(config, dataset, Console(quiet=True))
        return pq.read_table(artifact.path / "knowledge.parquet", columns=COMPARED)

    ours, rays = run("blocks"), run("ray_data_llm")
    assert set(ours["status"].to_pylist()) == {"ok", "too_long"}
    answered = pa.compute.equal(ours["status"], "ok")
    assert ours.filter(answered).equals(rays.filter(answered))
    assert ours["status"].equals(rays["status"])
