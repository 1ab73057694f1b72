"""The audit as files: tables, pictures, scores and a run in the registry."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lorecast.artifacts import Artifact, StageSpec, build
from lorecast.config import ComputeConfig, DatasetConfig, ExperimentConfig, InteractionColumns
from lorecast.data.dataset import Dataset
from lorecast.errors import RegistryError
from lorecast.jobs import audit
from lorecast.jobs.console import Console
from lorecast.knowledge.plan import Plan
from lorecast.knowledge.rows import KNOWLEDGE, SCHEMA
from lorecast.lifecycle.registry import InMemoryRegistry

PNG = b"\x89PNG"


@pytest.fixture
def config(tmp_path: Path) -> ExperimentConfig:
    """The world's fields about tables of one's own, so that no truth is known."""
    return ExperimentConfig(
        dataset=DatasetConfig(source="tables", interactions=InteractionColumns(file="clicks.csv")),
        knowledge={
            "fields": [
                {
                    "kind": "generate",
                    "name": "facts",
                    "side": "item",
                    "factor_set": "films",
                },
            ]
        },
        compute=ComputeConfig(workspace=str(tmp_path / "workspace")),
    )


@pytest.fixture
def knowledge(config: ExperimentConfig, tiny_dataset: Dataset) -> Artifact:
    """Answers that repeat the title, and one that is cut off."""
    prompts = pa.concat_tables(Plan.of(config, tiny_dataset, "digest").blocks())
    rows = [
        {name: prompt.get(name) for name in SCHEMA.names}
        | {
            "text": f"It is Film {prompt['row']} by Ada Lind.",
            "status": "truncated" if place == 0 else "ok",
            "weight": 1.0,
        }
        for place, prompt in enumerate(prompts.to_pylist())
    ]
    spec = StageSpec(
        stage="generate", name="tiny", identity={"llm": {"model": "digest"}}, inputs={}
    )
    with build(Path(config.compute.workspace), spec) as draft:
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), draft.path / KNOWLEDGE)
    return Artifact.open(draft.path)


def test_writes_what_it_found_and_logs_it(
    config: ExperimentConfig, tiny_dataset: Dataset, knowledge: Artifact
) -> None:
    registry = InMemoryRegistry()
    folder = audit.run(config, tiny_dataset, knowledge, Console(quiet=True), registry)
    assert Artifact.open(folder).facts["run_id"] == "run-1"
    for name in ("lengths.png", "duplicates.png", "redundancy.png"):
        assert (folder / name).read_bytes().startswith(PNG)
    assert not (folder / "accuracy.png").exists()

    told = (folder / "audit.md").read_text()
    assert told.index("## Findings") < told.index("## Answers by factor")
    assert "(mean overlap 1.00)" in told
    written = json.loads((folder / "audit.json").read_text())
    first = written["factors"][0]
    assert first["status"]["truncated"] == pytest.approx(1 / tiny_dataset.schema.num_items)
    assert first["names"] == 2, "the film and its maker"
    assert first["names_from_prompt"] == pytest.approx(0.5), "the prompt names the film"
    assert written["redundancy"][0]["overlap"][0][0] is None

    rows = pq.read_table(folder / "quality.parquet")
    assert rows.schema.names == [*SCHEMA.names, "words", "copies", "near_copies", "echo"]
    assert rows["copies"][:2].to_pylist() == [None, 1]


def test_a_second_time_it_is_read(
    config: ExperimentConfig, tiny_dataset: Dataset, knowledge: Artifact
) -> None:
    registry = InMemoryRegistry()
    folders = {
        audit.run(config, tiny_dataset, knowledge, Console(quiet=True), registry) for _ in range(2)
    }
    assert len(folders) == 1
    assert Artifact.open(folders.pop()).facts["run_id"] == "run-1"


@pytest.mark.bad_input
def test_a_registry_that_does_not_answer_leaves_no_finished_audit(
    config: ExperimentConfig, tiny_dataset: Dataset, knowledge: Artifact
) -> None:
    away = config.registry.model_copy(update={"tracking_uri": "http://127.0.0.1:1"})
    with pytest.raises(RegistryError, match="does not answer"):
        audit.run(
            config.model_copy(update={"registry": away}),
            tiny_dataset,
            knowledge,
            Console(quiet=True),
        )
    assert not list(Path(config.compute.workspace).glob("audit/*/manifest.json"))
