"""`lorecast latency` on prepared tables and scripted texts: ways, agreement, what is left out."""

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ray.cloudpickle import register_pickle_by_value

from lorecast.config import load_config
from lorecast.data.dataset import Dataset
from lorecast.encoding.encoder import HashEncoder
from lorecast.encoding.vectors import VectorsTable
from lorecast.errors import ConfigError
from lorecast.evaluation import latency
from lorecast.evaluation.latency import Latency, Way
from lorecast.jobs import encode, generate, prepare
from lorecast.jobs.asking import MakeEngine
from lorecast.jobs.console import Console
from lorecast.jobs.pipeline import Trained
from lorecast.jobs.ways import BARE, LLM, PRESTORED, VECTORS, Measurement, Trial
from lorecast.knowledge.engine import Answer, ScriptedEngine
from tests.small_bundle import make_model, write_trained

pytestmark = pytest.mark.usefixtures("ray_cluster")
register_pickle_by_value(sys.modules[__name__])  # workers cannot import tests

QUIET = Console(quiet=True)
NUM_USERS, NUM_ITEMS, CLICKS = 20, 30, 12
TRIAL = Trial(items=20, requests=30, llm_items=10, llm_requests=4)
_FIELD = "{kind: generate, name: %s, side: %s, factor_set: films, factors: [genre, mood]}"
_FACTS, _TASTE = _FIELD % ("facts", "item"), _FIELD % ("taste", "user")
_TOLD = "{kind: import, name: told, side: item, file: told.jsonl}"


def _reply(prompt: str) -> str | Answer:
    if "Film 7" in prompt and "mood" in prompt:
        return "I'm sorry, I don't know this film."
    return f"About {prompt}"


def _engine() -> ScriptedEngine:
    return ScriptedEngine(_reply)


Make = Callable[..., Measurement]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All tests' tables and workspace: what is prepared, told and encoded once serves all."""
    made = tmp_path_factory.mktemp("shop")
    _write_tables(made / "tables")
    return made


@pytest.fixture
def make(folder: Path) -> Make:
    def made(
        *overrides: str,
        fields: tuple[str, ...] = (_FACTS, _TASTE),
        make_engine: MakeEngine = _engine,
    ) -> Measurement:
        config = load_config(
            None,
            [
                "name=shop",
                f"compute.workspace={folder / 'workspace'}",
                "dataset.source=tables",
                f"dataset.path={folder / 'tables'}",
                "dataset.interactions={file: interactions.parquet, rating: rating}",
                "dataset.items={file: items.parquet, id: item_id, title: title, text: [genre]}",
                "dataset.prefix_max=2",
                "dataset.history_length=5",
                "knowledge.llm.model=test/scripted",
                f"knowledge.fields=[{', '.join(fields)}]",
                *overrides,
            ],
        )
        dataset = Dataset.open(prepare.run(config, QUIET).path)
        knowledge = generate.run(config, dataset, QUIET, make_engine=make_engine)
        encoded = encode.run(config, dataset, knowledge, QUIET, make_encoder=HashEncoder)
        vectors = VectorsTable.open(encoded.path)
        models = {
            "base": make_model(dataset, None, config=config.model),
            "all_parameters": make_model(dataset, vectors, config=config.model),
        }
        trained: dict[str, Any] = {
            strategy: write_trained(
                folder / "workspace",
                model,
                dataset,
                None if strategy == "base" else vectors,
                config.model,
            )
            for strategy, model in models.items()
        }
        return Measurement(
            config=config,
            dataset=dataset,
            knowledge=knowledge,
            vectors=vectors,
            knowing=Trained("all_parameters", 0, trained["all_parameters"]),
            bare=Trained("base", 0, trained["base"]),
            trial=TRIAL,
            console=QUIET,
            make_engine=make_engine,
            make_encoder=HashEncoder,
        )

    return made


def _write_tables(folder: Path) -> None:
    folder.mkdir()
    rng, N = np.random.default_rng(0), NUM_USERS * CLICKS
    tables = {
        "interactions": {
            "user_id": [f"u{1 + n // CLICKS}" for n in range(N)],
            "item_id": [f"i{n}" for n in rng.integers(1, NUM_ITEMS + 1, N)],
            "rating": rng.integers(1, 6, N),
            "timestamp": [1000 * (n % CLICKS) for n in range(N)],
        },
        "items": {
            "item_id": [f"i{n}" for n in range(1, NUM_ITEMS + 1)],
            "title": [f"Film {n}" for n in range(1, NUM_ITEMS + 1)],
            "genre": [("Comedy", "Drama", "Western")[n % 3] for n in range(NUM_ITEMS)],
        },
    }
    for name, columns in tables.items():
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    lines = [{"id": f"i{n}", "text": f"A note on {n}."} for n in range(1, NUM_ITEMS + 1)]
    (folder / "told.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")


def _ways(found: Latency) -> dict[str, Way]:
    return {way.name: way for way in found.ways}


@pytest.mark.parametrize(
    "overrides",
    [(), ("encoding.components=8",), ("model.item_field=true",), ("model.extractor=hein",)],
    ids=["plain", "components", "item_field", "hein"],
)
def test_what_is_written_for_a_request_scores_as_what_is_stored(
    make: Make, folder: Path, tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    measurement = make(*overrides)
    store = sorted((folder / "workspace").rglob("*.parquet"))
    found = measurement.run(tmp_path)
    online = found.online
    assert online is not None
    # A prompt a factor of the user and of each candidate; histories take more.
    without_histories = 4 * 2 * (1 + 10)
    reads_histories = "model.item_field=true" in overrides
    assert (online.prompts > without_histories) == reads_histories
    assert online.prompts >= without_histories
    assert online.texts == online.same_texts
    assert 0.9 * online.prompts < online.texts < online.prompts, "refused ones are no texts"
    assert online.same_pairs == 4 * 10
    assert online.largest_difference <= 1e-6
    assert sorted((folder / "workspace").rglob("*.parquet")) == store, "nothing is kept"
    assert found.notes == ()


def test_other_answers_are_told_and_score_otherwise(make: Make, tmp_path: Path) -> None:
    def other(prompt: str) -> str | Answer:
        return "Something else." if "Film 9" in prompt else _reply(prompt)

    measurement = make()
    found = dataclasses.replace(measurement, make_engine=lambda: ScriptedEngine(other)).run(
        tmp_path
    )
    online = found.online
    assert online is not None
    assert 0 < online.same_texts < online.texts
    assert 0 < online.same_pairs < 4 * 10
    assert online.largest_difference_same is not None
    assert online.largest_difference_same <= 1e-6 < online.largest_difference
    assert f"{online.same_texts:,} of {online.texts:,}" in latency.agreement(online)


def test_prose_is_cut_as_it_is_in_the_store(make: Make, tmp_path: Path) -> None:
    def prose(prompt: str) -> str:
        return f"First, {prompt}. Second thoughts." + " And more." * prompt.count("Film 3")

    def engine() -> ScriptedEngine:
        return ScriptedEngine(prose)

    field = _FACTS.replace("factors: [genre, mood]", "answer: text")
    found = make(fields=(field,), make_engine=engine).run(tmp_path)
    assert found.online is not None
    assert found.online.prompts == 4 * 10
    assert found.online.same_texts == found.online.texts > found.online.prompts
    assert found.online.largest_difference <= 1e-6


def test_each_way_is_timed_and_says_what_it_stores(make: Make, tmp_path: Path) -> None:
    measurement = make()
    found = measurement.run(tmp_path)
    ways = _ways(found)
    assert list(ways) == [LLM, VECTORS, PRESTORED, BARE]
    assert [way.requests for way in found.ways] == [4, 30, 30, 30]
    assert [way.items for way in found.ways] == [10, 20, 20, 20]
    assert all(way.p50_ms > 0 and way.p99_ms is None for way in found.ways), "too few for a tail"
    # Two texts of an entity, 32 numbers of two bytes.
    assert (ways[VECTORS].item_bytes, ways[VECTORS].user_bytes) == (128, 128)
    assert ways[PRESTORED].item_bytes > 0
    assert ways[PRESTORED].item_bytes % 4 == 0
    assert (ways[BARE].item_bytes, ways[LLM].user_bytes) == (0, 0)
    assert not list(tmp_path.glob("tmp*")), "bundles are gone"
    latency.draw(found, tmp_path / "latency.svg")
    assert "<svg" in (tmp_path / "latency.svg").read_text(encoding="utf-8")
    assert all(name in latency.markdown(found) for name in ways)


def test_fields_that_cannot_be_asked_have_their_stored_vectors(make: Make, tmp_path: Path) -> None:
    measurement = make(fields=(_FACTS, _TOLD, _TASTE))
    found = measurement.run(tmp_path)
    assert found.online is not None
    assert found.online.largest_difference <= 1e-6
    assert found.online.prompts == 4 * 2 * (1 + 10)
    (note,) = found.notes
    assert "the field told has its stored vectors" in note


def test_without_texts_to_ask_for_the_llm_has_no_line(make: Make, tmp_path: Path) -> None:
    measurement = dataclasses.replace(make(fields=(_TOLD,)), bare=None)
    found = measurement.run(tmp_path)
    assert list(_ways(found)) == [VECTORS, PRESTORED]
    assert found.online is None
    assert [note.split(":")[0] for note in found.notes] == [
        f"no line for {BARE}",
        f"no line for {LLM}",
    ]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"llm_requests": 0}, "--llm-requests is 0"),
        ({"items": 31}, "--items 31: the dataset has only 30 items"),
        ({"llm_items": 31}, "--llm-items 31"),
    ],
)
def test_trials(make: Make, tmp_path: Path, changed: dict[str, int], reason: str) -> None:
    trial = dataclasses.replace(TRIAL, **changed)
    measurement = dataclasses.replace(make(), trial=trial)
    if "llm_requests" in changed:
        assert reason in measurement.run(tmp_path).notes[0]
    else:
        with pytest.raises(ConfigError, match=reason):
            measurement.run(tmp_path)


def test_turns_count_what_comes_after_warming_up() -> None:
    seen: list[tuple[str, int]] = []
    ways = {name: (lambda n, name=name: seen.append((name, n))) for name in ("a", "b")}
    taken_s = latency.in_turns(ways, range(50))
    assert {name: len(taken) for name, taken in taken_s.items()} == {"a": 50, "b": 50}
    assert seen[:4] == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert len(seen) == 2 * (20 + 50)
    way = Way.of("a", 1, [0.001 * n for n in range(1, 102)], item_bytes=0, user_bytes=0)
    assert way.p50_ms == pytest.approx(51)
    assert way.p99_ms == pytest.approx(100)
