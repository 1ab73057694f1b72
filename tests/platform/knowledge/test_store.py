"""The store: append-only, whole parts, answers before failures; keys change when they should."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from lorecast.errors import KnowledgeError
from lorecast.knowledge.store import SCHEMA, KeyMaker, KnowledgeStore

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def part(*keys: str, status: str = "ok", text: str = "text", age_s: int = 0) -> pa.Table:
    same: dict[str, Any] = dict.fromkeys(("side", "id", "field", "factor", "model", "run_id"), "x")
    time = NOW - timedelta(seconds=age_s)
    rows = [same | {"key": key, "status": status, "text": text, "time": time} for key in keys]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


@pytest.fixture
def store(tmp_path: Path) -> KnowledgeStore:
    return KnowledgeStore(tmp_path / "knowledge")


def test_an_absent_store_is_empty(store: KnowledgeStore) -> None:
    assert store.answered_keys().to_pylist() == []
    assert store.fetch(pa.array([], pa.string())).num_rows == 0


def test_fetch_keeps_the_order_asked_for(store: KnowledgeStore) -> None:
    store.append(part("a", "b", text="first"))
    store.append(part("c", text="second"))
    fetched = store.fetch(pa.array(["c", "a"]))
    assert fetched["text"].to_pylist() == ["second", "first"]


def test_writing_a_part_twice_changes_nothing(store: KnowledgeStore) -> None:
    assert store.append(part("a", "b")) == store.append(part("a", "b"))
    assert sorted(store.answered_keys().to_pylist()) == ["a", "b"]


def test_failures_do_not_count_as_stored_and_yield_to_answers(store: KnowledgeStore) -> None:
    store.append(part("a", text="answer", age_s=60))
    store.append(part("a", "b", status="failed", text=""))
    assert store.answered_keys().to_pylist() == ["a"]
    assert store.fetch(pa.array(["a", "b"]))["status"].to_pylist() == ["ok", "failed"]


def test_what_a_killed_writer_leaves_is_not_read(store: KnowledgeStore) -> None:
    path = store.append(part("a"))
    path.with_name(f".{path.name}.123.partial").write_bytes(b"PAR1 half")
    assert store.answered_keys().to_pylist() == ["a"]


@pytest.mark.bad_input
def test_a_damaged_part_is_named(store: KnowledgeStore) -> None:
    path = store.append(part("a"))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(KnowledgeError, match=path.name):
        store.answered_keys()


@pytest.mark.bad_input
def test_a_store_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(KnowledgeError, match="cannot take more answers"):
        KnowledgeStore(tmp_path / "file" / "knowledge").append(part("a"))


BASE: dict[str, Any] = {
    "side": "user",
    "entity_id": "7",
    "field": "taste",
    "factor": "mood",
    "history_end": 4,
    "chat": [{"role": "user", "content": "Which mood?"}],
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("side", "item"),
        ("entity_id", "8"),
        ("field", "style"),
        ("factor", "theme"),
        ("history_end", 5),
        ("chat", [{"role": "user", "content": "Which mood, then?"}]),
    ],
)
def test_everything_that_decides_an_answer_changes_its_key(name: str, value: object) -> None:
    keys = KeyMaker("model", {"temperature": 0})
    assert keys.key(**BASE) != keys.key(**{**BASE, name: value})
    assert keys.key(**BASE) == KeyMaker("model", {"temperature": 0}).key(**BASE)


def test_model_and_sampling_change_keys() -> None:
    key = KeyMaker("model", {"temperature": 0}).key(**BASE)
    assert KeyMaker("other", {"temperature": 0}).key(**BASE) != key
    assert KeyMaker("model", {"temperature": 1}).key(**BASE) != key
