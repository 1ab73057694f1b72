"""plan and knowledge show: what is printed before and after tokens are spent."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from lorecast.config import (
    ComputeConfig,
    ExperimentConfig,
    GeneratedField,
    ImportedField,
    KnowledgeConfig,
)
from lorecast.data.dataset import Dataset
from lorecast.errors import ConfigError, EngineError, InputError
from lorecast.jobs import engines, plan, show
from lorecast.jobs.console import Console
from lorecast.knowledge.plan import Plan
from lorecast.knowledge.store import FOLDER, SCHEMA, KnowledgeStore

FIELDS = (
    GeneratedField(name="facts", side="item", factor_set="films", factors=("mood", "plot")),
    GeneratedField(name="taste", side="user", factor_set="films", factors=("mood",)),
)


@pytest.fixture
def config(tmp_path: Path) -> ExperimentConfig:
    """The world's language model over the tiny dataset."""
    return ExperimentConfig(
        knowledge=KnowledgeConfig(fields=FIELDS),
        compute=ComputeConfig(workspace=str(tmp_path / "workspace")),
    )


def store_answers(config: ExperimentConfig, dataset: Dataset, num_rows: int) -> None:
    """Puts answers to the first prompts of the plan into the store."""
    block = next(Plan.of(config, dataset, engines.find_model(config).digest).blocks())
    block = block.slice(0, num_rows)
    columns: dict[str, Any] = {
        name: block[name] for name in ("key", "side", "id", "field", "factor", "history_end")
    }
    same = {"text": "Gloomy.", "status": "ok", "reason": "", "run_id": "run"}
    same |= {"prompt_tokens": 30, "output_tokens": 6, "time": datetime(2026, 1, 2, tzinfo=UTC)}
    same |= {"model": engines.find_model(config).source, "certainty": None}
    columns |= {name: [value] * num_rows for name, value in same.items()}
    rows = pa.table({name: columns[name] for name in SCHEMA.names}, schema=SCHEMA)
    KnowledgeStore(Path(config.compute.workspace) / FOLDER).append(rows)


def tables(output: str) -> dict[str, list[dict[str, str]]]:
    events = [json.loads(line) for line in output.splitlines()]
    return {e["title"]: e["lines"] for e in events if e["event"] == "table"}


def test_the_plan_counts_what_is_stored_and_compares_groups(
    config: ExperimentConfig,
    make_tiny_dataset: Callable[..., Dataset],
    capsys: pytest.CaptureFixture[str],
) -> None:
    dataset = make_tiny_dataset()
    store_answers(config, dataset, 20)
    rates = plan.Rates(tokens_per_s=100.0, price_per_hour=36.0, price_in=1.0)
    plan.run(config, dataset, Console(as_json=True), rates, [5, 10, 1000])
    shown = tables(capsys.readouterr().out)
    facts, taste, everything = shown["as configured"]
    assert (facts["wanted"], facts["stored"], facts["calls"]) == ("80", "20", "60")
    assert (taste["wanted"], taste["calls"]) == ("30", "30")
    assert everything["calls"] == "90"
    assert facts["written tokens"] == "360", "six tokens an answer, as stored"
    assert facts["GPU price"] == "0.04", "360 tokens at 100 a second, 36 an hour"
    assert taste["written tokens"] == "30 to 960", "from one token to the limit each"
    collective = shown["facts: individual or collective"]
    assert [line[""] for line in collective] == ["individual (40)", "5 groups", "10 groups"]
    assert [line["wanted"] for line in collective] == ["80", "10", "20"]


@pytest.mark.bad_input
def test_a_plan_needs_something_to_ask_and_a_tokenizer(
    config: ExperimentConfig, tiny_dataset: Dataset
) -> None:
    imported = ImportedField(kind="import", name="plot", side="item", file="plots.parquet")
    nothing = config.knowledge.model_copy(update={"fields": (imported,)})
    quiet, rates = Console(quiet=True), plan.Rates()
    with pytest.raises(ConfigError, match="nothing to plan"):
        plan.run(
            config.model_copy(update={"knowledge": nothing}), tiny_dataset, quiet, plan.Rates()
        )
    llm = config.knowledge.llm.model_copy(update={"engine": "openai", "model": "some-api"})
    behind = config.knowledge.model_copy(update={"llm": llm})
    with pytest.raises(EngineError, match="no tokenizer of some-api"):
        plan.run(config.model_copy(update={"knowledge": behind}), tiny_dataset, quiet, rates)


def test_show_prints_texts_with_their_origin(
    config: ExperimentConfig,
    make_tiny_dataset: Callable[..., Dataset],
    capsys: pytest.CaptureFixture[str],
) -> None:
    dataset = make_tiny_dataset()
    store_answers(config, dataset, 4)
    show.run(config, dataset, Console(as_json=True), item="i2")
    [lines] = tables(capsys.readouterr().out).values()
    assert [(line["factor"], line["text"]) for line in lines] == [
        ("mood", "Gloomy."),
        ("plot", "Gloomy."),
    ]
    assert "2026-01-02" in lines[0]["from"]


@pytest.mark.bad_input
def test_show_names_what_it_cannot_find(config: ExperimentConfig, tiny_dataset: Dataset) -> None:
    quiet = Console(quiet=True)
    with pytest.raises(InputError, match="no item 'i99' in the dataset; its ids look like i1, i2"):
        show.run(config, tiny_dataset, quiet, item="i99")
    with pytest.raises(ConfigError, match="either --item ID or --user ID"):
        show.run(config, tiny_dataset, quiet, item="i1", user="u1")
