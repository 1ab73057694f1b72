"""The store: append-only, whole parts, answers before failures; keys change when they should."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lorecast.errors import KnowledgeError
from lorecast.knowledge.keys import (
    KEY_DIGITS,
    KeyIndex,
    KeyMaker,
    chat_json,
    key_numbers,
    sort_keys,
)
from lorecast.knowledge.store import SCHEMA, KnowledgeStore

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def key(name: str) -> str:
    """A key as the store knows them, for one letter."""
    return name * KEY_DIGITS


def keys(*names: str) -> pa.Array:
    return pa.array([key(name) for name in names], pa.string())


def part(*names: str, status: str = "ok", text: str = "text", age_s: int = 0) -> pa.Table:
    same: dict[str, Any] = dict.fromkeys(("side", "id", "field", "factor", "model", "run_id"), "x")
    same |= {"status": status, "text": text, "time": NOW - timedelta(seconds=age_s)}
    rows = [same | {"key": key(name)} for name in names]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


@pytest.fixture
def store(tmp_path: Path) -> KnowledgeStore:
    return KnowledgeStore(tmp_path / "knowledge")


def test_an_absent_store_is_empty(store: KnowledgeStore) -> None:
    index = store.index()
    assert not index.is_answered(keys("a")).any()
    assert index.fetch(keys()).num_rows == 0


def test_fetch_keeps_the_order_asked_for(store: KnowledgeStore) -> None:
    store.append(part("a", "b", text="first"))
    store.append(part("c", text="second"))
    fetched = store.index().fetch(keys("c", "a"))
    assert fetched["text"].to_pylist() == ["second", "first"]


def test_parts_of_older_versions_read_without_certainty(store: KnowledgeStore) -> None:
    old = store.append(part("a", text="old"))
    pq.write_table(pq.read_table(old).drop_columns(["certainty"]), old)
    sure = part("b").set_column(
        SCHEMA.get_field_index("certainty"), "certainty", pa.array([-0.5], pa.float32())
    )
    store.append(sure)
    fetched = store.index().fetch(keys("a", "b"))
    assert fetched["certainty"].to_pylist() == [None, -0.5]
    assert store.compact() == 2
    assert store.index().fetch(keys("b", "a"))["certainty"].to_pylist() == [-0.5, None]


def test_writing_a_part_twice_changes_nothing(store: KnowledgeStore) -> None:
    assert store.append(part("a", "b")) == store.append(part("a", "b"))
    assert store.index().is_answered(keys("a", "b", "c")).tolist() == [True, True, False]


def test_failures_do_not_count_as_stored_and_yield_to_answers(store: KnowledgeStore) -> None:
    store.append(part("a", text="answer", age_s=60))
    store.append(part("a", "b", status="failed", text=""))
    index = store.index()
    assert index.is_answered(keys("a", "b")).tolist() == [True, False]
    assert index.fetch(keys("a", "b"))["status"].to_pylist() == ["ok", "failed"]


def test_what_a_killed_writer_leaves_is_not_read(store: KnowledgeStore) -> None:
    path = store.append(part("a"))
    path.with_name(f".{path.name}.123.partial").write_bytes(b"PAR1 half")
    assert store.index().is_answered(keys("a", "b")).tolist() == [True, False]


@pytest.mark.bad_input
def test_a_damaged_part_is_named(store: KnowledgeStore) -> None:
    path = store.append(part("a"))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(KnowledgeError, match=path.name):
        store.index()


@pytest.mark.bad_input
def test_a_store_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(KnowledgeError, match="cannot take more answers"):
        KnowledgeStore(tmp_path / "file" / "knowledge").append(part("a"))


def test_compaction_keeps_what_wins_and_nothing_else(store: KnowledgeStore) -> None:
    store.append(part("a", "b", text="", status="failed", age_s=60))
    store.append(part("a", text="answer", age_s=30))
    store.append(part("c", text="other"))
    before = store.index().fetch(keys("a", "b", "c"))
    assert store.compact() == 3
    assert len(list(store.folder.glob("part-*.parquet"))) == 1
    assert store.index().fetch(keys("a", "b", "c")).equals(before)
    assert sum(table.num_rows for table in store.index().tables()) == 3
    assert store.compact() == 0, "a second time there is nothing to do"


def test_compaction_waits_for_those_who_use_the_store(store: KnowledgeStore) -> None:
    store.append(part("a"))
    with store.in_use(), pytest.raises(KnowledgeError, match="in use by another run"):
        store.compact()


def test_the_index_is_exact_where_keys_share_their_first_half() -> None:
    names = ["0" * 16 + f"{number:016x}" for number in (5, 3, 9)] + ["f" * 32, "0" * 32]
    high, low = key_numbers(pa.array(names)).T
    order = sort_keys(high, low, np.ones(len(names), bool))
    index = KeyIndex(high[order], low[order])
    asked = pa.array([*reversed(names), "0" * 31 + "4", "e" * 32])
    found = index.find(key_numbers(asked))
    assert order[found[:5]].tolist() == [4, 3, 2, 1, 0]
    assert found[5:].tolist() == [-1, -1]


def test_of_equal_keys_the_one_that_ranks_highest_counts() -> None:
    high, low = key_numbers(pa.array([letter * 32 for letter in "abacaa"])).T
    order = sort_keys(high, low, np.array([True, True, True, True, True, False]))
    [place] = KeyIndex(high[order], low[order]).find(key_numbers(pa.array(["a" * 32])))
    assert order[place] == 4, "the last of those that win"


OVER_QUOTA = """
import resource, sys
from pathlib import Path
import pyarrow as pa
from lorecast.errors import KnowledgeError
from lorecast.knowledge.store import SCHEMA, KnowledgeStore

resource.setrlimit(resource.RLIMIT_FSIZE, (500, resource.RLIM_INFINITY))
rows = [{"key": f"{n:032x}", "text": f"text {n * 7919}", "status": "ok"} for n in range(1000)]
try:
    KnowledgeStore(Path(sys.argv[1])).append(pa.Table.from_pylist(rows, schema=SCHEMA))
except KnowledgeError as error:
    print(error)
"""


@pytest.mark.bad_input
def test_a_quota_leaves_what_was_stored_and_nothing_half_done(store: KnowledgeStore) -> None:
    store.append(part("a"))
    before = sorted(store.folder.iterdir())
    done = subprocess.run(
        [sys.executable, "-c", OVER_QUOTA, str(store.folder)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "cannot take more answers" in done.stdout
    assert "File too large" in done.stdout
    assert sorted(store.folder.iterdir()) == before


BASE: dict[str, Any] = {
    "side": "user",
    "entity_id": "7",
    "field": "taste",
    "factor": "mood",
    "history_end": 4,
    "chat": chat_json([{"role": "user", "content": "Which mood?"}]),
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("side", "item"),
        ("entity_id", "8"),
        ("field", "style"),
        ("factor", "theme"),
        ("history_end", 5),
        ("chat", chat_json([{"role": "user", "content": "Which mood, then?"}])),
        ("schema", '{"type": "object"}'),
    ],
)
def test_everything_that_decides_an_answer_changes_its_key(name: str, value: object) -> None:
    maker = KeyMaker("model", {"temperature": 0})
    assert maker.key(**BASE) != maker.key(**{**BASE, name: value})
    assert maker.key(**BASE) == KeyMaker("model", {"temperature": 0}).key(**BASE)


def test_model_and_sampling_change_keys() -> None:
    key = KeyMaker("model", {"temperature": 0}).key(**BASE)
    assert KeyMaker("other", {"temperature": 0}).key(**BASE) != key
    assert KeyMaker("model", {"temperature": 1}).key(**BASE) != key
