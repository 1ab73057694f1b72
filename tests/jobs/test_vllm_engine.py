"""Real vLLM through generate: the embedded world's model answers two dozen prompts."""

from collections.abc import Callable
from pathlib import Path

import pyarrow.compute as pc
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
from lorecast.world import llm_path

SHORT_HISTORY = 2
"""The first users of the tiny dataset have a prompt of two titles, the others of more."""


@pytest.mark.usefixtures("ray_cluster")
def test_the_world_model_answers_and_long_prompts_are_not_asked(
    make_tiny_dataset: Callable[..., Dataset], tmp_path: Path
) -> None:
    pytest.importorskip("vllm", reason="vLLM is an extra: pip install 'lorecast[cpu]'")
    if not llm_path().is_dir():
        pytest.skip("this checkout has no world model; `lorecast world build` makes it")
    dataset = make_tiny_dataset(num_users=12, num_items=8)
    config = ExperimentConfig(
        knowledge=KnowledgeConfig(
            fields=(GeneratedField(name="taste", side="user", factors=("director", "mood")),),
            llm=LLMConfig(model="world", max_model_len=64, max_tokens=24, certainty=True),
            error_budget=1.0,
        ),
        compute=ComputeConfig(workspace=str(tmp_path / "workspace"), engine_batch=8, threads=1),
    )
    artifact = generate.run(config, dataset, Console(quiet=True))
    table = pq.read_table(artifact.path / "knowledge.parquet")
    short = pc.less_equal(table["row"], SHORT_HISTORY)
    answered = table.filter(short)
    assert answered["status"].to_pylist() == ["ok"] * 4
    assert all(text.startswith("This viewer") for text in answered["text"].to_pylist())
    assert min(answered["output_tokens"].to_pylist()) > 0
    assert all(-3 < certainty < 0 for certainty in answered["certainty"].to_pylist())
    failed = table.filter(pc.equal(table["status"], "too_long"))
    assert failed.num_rows > 0
    assert failed["certainty"].null_count == failed.num_rows
    assert all("max_model_len" in reason for reason in failed["reason"].to_pylist())
    assert artifact.facts["failed"] == failed.num_rows
