"""prepare, whole: golden counts, properties of what it writes, and input it refuses."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from lorecast.artifacts import MANIFEST, Artifact
from lorecast.config import ExperimentConfig, load_config
from lorecast.data.batches import Samples, load_samples
from lorecast.data.dataset import Dataset
from lorecast.data.layout import REJECTED, SPLITS
from lorecast.errors import ArtifactError, BadRowsError, ConfigError, InputError
from lorecast.jobs import prepare
from lorecast.jobs.console import Console
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.usefixtures("ray_cluster")

NUM_USERS, NUM_ITEMS = 40, 30
Tables = dict[str, dict[str, Any]]


@pytest.fixture
def tables(rng: np.random.Generator) -> Tables:
    """Clicks with ties in time, in no order; user 40 and item 30 never occur."""
    count = 1500
    return {
        "clicks": {
            "who": rng.integers(1, NUM_USERS, count).astype(str).astype(object),
            "what": rng.integers(1, NUM_ITEMS, count).astype(object),
            "stars": rng.integers(1, 6, count).astype(float).astype(object),
            "when": rng.integers(1_600_000_000, 1_600_000_400, count).astype(object),
            "fold": rng.choice(["train", "valid", "test", None], count, p=[0.6, 0.1, 0.1, 0.2]),
        },
        "people": {"uid": list(range(1, NUM_USERS + 1)), "town": ["x", "y"] * (NUM_USERS // 2)},
        "things": {
            "iid": list(range(1, NUM_ITEMS + 1)),
            "name": [f"thing {n}" for n in range(1, NUM_ITEMS + 1)],
            "kind": ["a", "b", None] * (NUM_ITEMS // 3),
        },
    }


Run = Callable[..., Artifact]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Writes tables and prepares them; keywords override `dataset`, `compute` and mappings."""

    def run_(
        tables: Tables,
        *,
        suffix: str = "parquet",
        rows_per_task: int = 200,
        clicks: dict[str, Any] | None = None,
        things: dict[str, Any] | None = None,
        **dataset: Any,
    ) -> Artifact:
        folder = tmp_path / f"tables-{suffix}"
        folder.mkdir(exist_ok=True)
        for name, columns in tables.items():
            table = pa.table({column: pa.array(values) for column, values in columns.items()})
            path = folder / f"{name}.{suffix}"
            if suffix == "csv":
                pa_csv.write_csv(table, path)
            else:
                pq.write_table(table, path, row_group_size=150)
        names = {"user": "who", "item": "what", "rating": "stars", "timestamp": "when"}
        mapping: dict[str, Any] = {
            "interactions": {"file": f"clicks.{suffix}", **names, **(clicks or {})},
            "users": {"file": f"people.{suffix}", "id": "uid", "text": ["town"]},
            "items": {
                "file": f"things.{suffix}",
                "id": "iid",
                "title": "name",
                "features": ["kind"],
                **(things or {}),
            },
        }
        config = ExperimentConfig.model_validate(
            {
                "name": "own",
                "dataset": {
                    "source": "tables",
                    "path": str(folder),
                    "history_length": 5,
                    **mapping,
                    **dataset,
                },
                "compute": {
                    "workspace": str(tmp_path / f"ws-{rows_per_task}"),
                    "prepare_rows_per_task": rows_per_task,
                },
            }
        )
        return prepare.run(config, Console(quiet=True))

    return run_


def _all(artifact: Artifact) -> dict[str, Samples]:
    dataset = Dataset.open(artifact.path)
    return {split: load_samples(dataset, split) for split in SPLITS}


def _expected_samples(tables: Tables) -> dict[tuple[int, int], tuple[int, ...]]:
    """(user, position) → item, label, time and history, by a plain loop."""
    clicks = zip(
        *(tables["clicks"][name] for name in ("who", "what", "stars", "when")), strict=True
    )
    by_user: dict[int, list[tuple[int, int, int]]] = {}
    for who, what, stars, when in clicks:
        by_user.setdefault(int(who), []).append((int(when), int(what), int(stars)))
    expected = {}
    for user, rows in by_user.items():
        rows.sort(key=lambda row: row[0])
        first = min((len(rows) + 1) // 2, 30)
        for position in range(first, len(rows)):
            when, item, stars = rows[position]
            before = [row[1] for row in rows[max(0, position - 5) : position]]
            history = [0] * (5 - len(before)) + before
            expected[user, position] = (item, int(stars >= 4), when, *history)
    return expected


def _found_samples(artifact: Artifact) -> dict[tuple[int, int], tuple[int, ...]]:
    found = {}
    for samples in _all(artifact).values():
        rows = np.column_stack(
            [samples.item_row_B, samples.label_B, samples.timestamp_B, samples.history_item_BL]
        ).tolist()
        keys = zip(samples.user_row_B.tolist(), samples.position_B.tolist(), strict=True)
        found.update(zip(keys, map(tuple, rows), strict=True))
    return found


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_samples_equal_a_plain_loop(tables: Tables, run: Run, suffix: str) -> None:
    artifact = run(tables, suffix=suffix)
    assert _found_samples(artifact) == _expected_samples(tables)
    facts = artifact.facts
    assert sum(facts["rows"].values()) == len(_expected_samples(tables))
    assert (facts["users"], facts["items"], facts["interactions"]) == (NUM_USERS, NUM_ITEMS, 1500)
    assert facts["rejected"] == {}
    dataset = Dataset.open(artifact.path)
    assert dataset.rating_levels == (1, 2, 3, 4, 5)
    assert dataset.history_end()[NUM_USERS] == -1  # rated nothing
    assert dataset.text_columns == {"user": ("town",), "item": ()}
    assert not (artifact.path / "scratch").exists()


def test_rows_do_not_depend_on_how_work_is_cut(tables: Tables, run: Run) -> None:
    results = [run(tables, rows_per_task=rows) for rows in (100_000, 400, 70)]
    assert len(list((results[2].path / "samples" / "train").iterdir())) > 5
    first = _all(results[0])
    for other in map(_all, results[1:]):
        for split in SPLITS:
            assert np.array_equal(first[split].user_row_B, other[split].user_row_B)
            assert np.array_equal(first[split].history_item_BL, other[split].history_item_BL)
    users = [Dataset.open(result.path).users() for result in results]
    assert users[0].equals(users[1])
    assert users[0].equals(users[2])
    assert len({result.fingerprint for result in results}) == 1


def test_split_by_user(tables: Tables, run: Run) -> None:
    users = [set(samples.user_row_B.tolist()) for samples in _all(run(tables)).values()]
    assert len(set.union(*users)) == sum(map(len, users))


def test_split_by_time(tables: Tables, run: Run) -> None:
    split = {"by": "time", "valid": 0.15, "test": 0.15}
    train, valid, test = _all(run(tables, split=split)).values()
    assert train.timestamp_B.max() < valid.timestamp_B.min()
    assert valid.timestamp_B.max() < test.timestamp_B.min()
    total = len(train) + len(valid) + len(test)
    assert total == len(_expected_samples(tables))
    assert len(test) / total == pytest.approx(0.15, abs=0.02)


def test_split_by_column(tables: Tables, run: Run) -> None:
    artifact = run(tables, split={"by": "column", "column": "fold"}, prefix_share=0)
    counts = {split: tables["clicks"]["fold"].tolist().count(split) for split in SPLITS}
    assert artifact.facts["rows"] == counts
    # Rows without a part are no samples but stand in histories.
    deepest = max(int(samples.position_B.max()) for samples in _all(artifact).values())
    assert deepest > 30


@pytest.mark.parametrize("none", [{"prefix_share": 0}, {"prefix_max": 0}])
def test_without_a_prefix_every_interaction_is_a_sample(
    tables: Tables, run: Run, none: dict[str, int]
) -> None:
    artifact = run(tables, **none)
    assert sum(artifact.facts["rows"].values()) == 1500
    dataset = Dataset.open(artifact.path)
    assert (dataset.history_end() == -1).all()
    users = dataset.users()
    assert not len(users["prompt_item_rows"].combine_chunks().flatten())
    assert users["recent_item_rows"].combine_chunks().flatten().to_numpy().any()


def test_a_column_gives_the_histories(tables: Tables, run: Run, rng: np.random.Generator) -> None:
    clicks = tables["clicks"]
    lengths = rng.integers(0, 9, 1500)
    clicks["seen"] = [rng.integers(1, NUM_ITEMS + 3, n).tolist() for n in lengths]
    split = {
        "by": "column",
        "column": "fold",
        "values": {"train": "train", "valid": "valid", "test": "test"},
    }
    options = {"clicks": {"history": "seen"}, "split": split, "prefix_share": 0}
    artifact = run(tables, **options)
    known = [[item for item in seen if item <= NUM_ITEMS] for seen in clicks["seen"]]
    expected = sorted(
        (int(who), what, when, *[0] * (5 - len(seen)), *seen[-5:])
        for who, what, when, fold, seen in zip(
            clicks["who"], clicks["what"], clicks["when"], clicks["fold"], known, strict=True
        )
        if fold
    )
    found = [
        np.column_stack(
            [samples.user_row_B, samples.item_row_B, samples.timestamp_B, samples.history_item_BL]
        )
        for samples in _all(artifact).values()
    ]
    assert sorted(map(tuple, np.concatenate(found).tolist())) == expected
    assert all((samples.history_rating_BL == 0).all() for samples in _all(artifact).values())
    dataset = Dataset.open(artifact.path)
    assert not dataset.rates_histories
    assert (dataset.history_end() == -1).all()
    unknown = int(lengths.sum()) - sum(map(len, known))
    assert artifact.facts["unknown_history_ids"] == unknown > 0
    again = run(tables, rows_per_task=70, **options)
    assert _found_samples(again) == _found_samples(artifact)


def test_any_features(tables: Tables, run: Run, rng: np.random.Generator) -> None:
    clicks, things, people = (tables[name] for name in ("clicks", "things", "people"))
    clicks["device"] = rng.choice(["phone", "desk", "tv", None], 1500)
    clicks["hour"] = rng.integers(0, 24, 1500)
    things["tags"] = [["x", "y"][: n % 3] for n in range(NUM_ITEMS)]
    things["price"] = [None if n % 7 == 0 else float(n) for n in range(NUM_ITEMS)]
    people["likes"] = ["a|b|c", "b"] * (NUM_USERS // 2)
    options: dict[str, Any] = {
        "clicks": {"context": ["device", "hour"]},
        "things": {"multi": ["tags"], "numeric": ["price"]},
        "users": {
            "file": "people.parquet",
            "id": "uid",
            "multi": [{"column": "likes", "separator": "|"}],
            "multi_max": 2,
        },
    }
    artifact = run(tables, **options)
    dataset = Dataset.open(artifact.path)
    schema = dataset.schema
    assert (schema.item_multi, schema.user_multi) == ({"tags": 2}, {"likes": 2})
    assert (schema.item_numeric, schema.user_numeric) == (("price",), ())
    assert schema.context == {"device": 3, "hour": 24}
    assert dataset.feature_codes("item").shape == (NUM_ITEMS + 1, 1)
    assert dataset.multi_codes("item")["tags"][:4].tolist() == [[0, 0], [0, 0], [1, 0], [1, 2]]
    assert dataset.multi_codes("user")["likes"][:3].tolist() == [[0, 0], [1, 2], [2, 0]]
    assert dataset.numeric("user").shape == (NUM_USERS + 1, 0)
    price = dataset.numeric("item")[:, 0]
    trained = np.unique(load_samples(dataset, "train").item_row_B)
    known = np.array([row for row in trained if (row - 1) % 7])
    assert price[known].mean() == pytest.approx(0, abs=1e-6)
    assert price[known].std() == pytest.approx(1, abs=1e-6)
    assert (price[1::7] == 0).all()

    moments: dict[tuple[int, ...], set[tuple[Any, ...]]] = {}
    names = ("who", "what", "when", "device", "hour")
    for who, what, when, device, hour in zip(*(clicks[n] for n in names), strict=True):
        moments.setdefault((int(who), what, when), set()).add((device, str(hour)))
    devices, hours = ((None, *dataset.contexts[name]) for name in ("device", "hour"))
    for samples in _all(artifact).values():
        keys = np.column_stack([samples.user_row_B, samples.item_row_B, samples.timestamp_B])
        for key, (device, hour) in zip(keys.tolist(), samples.context_BK.tolist(), strict=True):
            assert (devices[device], hours[hour]) in moments[tuple(key)]
    again = Dataset.open(run(tables, rows_per_task=70, **options).path)
    for split in SPLITS:
        first, second = load_samples(dataset, split), load_samples(again, split)
        assert np.array_equal(first.context_BK, second.context_BK)
        assert first.take(slice(0, 0)).context_BK.shape == (0, 2)


def test_entities_known_only_from_interactions(tables: Tables, run: Run) -> None:
    dataset = Dataset.open(run(tables, users=None, items=None).path)
    assert dataset.users()["id"].to_pylist() == [str(n) for n in range(1, NUM_USERS)]
    assert dataset.items()["title"].to_pylist() == [str(n) for n in range(1, NUM_ITEMS)]
    assert dataset.schema.item_features == {}


def test_a_finished_dataset_is_found_again(tables: Tables, run: Run) -> None:
    first = run(tables)
    assert run(tables).manifest == first.manifest
    assert run(tables, max_bad_rows=0.5).path == first.path
    assert run(tables, history_length=6).path != first.path


@pytest.mark.bad_input
def test_a_half_written_dataset_is_made_anew(tables: Tables, run: Run) -> None:
    whole = run(tables)
    expected = _found_samples(whole)
    (whole.path / MANIFEST).unlink()
    (whole.path / "samples" / "train" / "part-99999.parquet").write_bytes(b"half")
    with pytest.raises(ArtifactError, match="unfinished"):
        Dataset.open(whole.path)
    assert _found_samples(run(tables)) == expected


def test_few_bad_rows_are_set_aside(tables: Tables, run: Run) -> None:
    tables["clicks"]["who"][3] = "nobody"
    tables["clicks"]["when"][5] = None
    tables["things"]["iid"].append(7)
    tables["things"]["name"].append("again")
    tables["things"]["kind"].append("a")
    artifact = run(tables, max_bad_rows=0.05)
    rejected = artifact.facts["rejected"]
    assert {reason: found["rows"] for reason, found in rejected["interactions"].items()} == {
        "who is not in the users table": 1,
        "when is not a time in seconds or ISO 8601": 1,
    }
    assert rejected["items"]["iid is repeated"]["rows"] == 1
    assert artifact.facts["interactions"] == 1498
    rows = pq.read_table(artifact.path / REJECTED)
    assert sorted(rows["row"].to_pylist()) == [3, 5, NUM_ITEMS]


@pytest.mark.bad_input
def test_many_bad_rows_stop_the_run_and_are_kept(tables: Tables, run: Run, tmp_path: Path) -> None:
    tables["clicks"]["stars"] = [None] * 30 + tables["clicks"]["stars"].tolist()[30:]
    expected = r"30 of 1,500 interactions rows cannot be used: stars is not a number \(30 rows"
    with pytest.raises(BadRowsError, match=expected) as stopped:
        run(tables)
    folder = next((tmp_path / "ws-200" / "prepare").iterdir())
    assert str(folder / REJECTED) in str(stopped.value)
    assert pq.read_table(folder / REJECTED).num_rows == 30
    assert not (folder / MANIFEST).exists()
    assert run(tables, max_bad_rows=0.1).path == folder


def _without(column: str) -> Callable[[Tables], None]:
    def change(tables: Tables) -> None:
        del tables["clicks"][column]

    return change


def _filled(table: str, column: str, value: Any) -> Callable[[Tables], None]:
    def change(tables: Tables) -> None:
        tables[table][column] = [value] * len(next(iter(tables[table].values())))

    return change


def _with_own_items_as_history(tables: Tables) -> None:
    tables["clicks"]["seen"] = [[item] for item in tables["clicks"]["what"]]


def _emptied(tables: Tables) -> None:
    tables["clicks"] = {name: np.array([], np.int64) for name in tables["clicks"]}


def _too_many_ratings(tables: Tables) -> None:
    tables["clicks"]["stars"] = [n / 7 for n in range(1500)]


def _repeated(tables: Tables) -> None:
    tables["people"]["uid"] = [1, *range(1, NUM_USERS)]


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (_without("when"), {}, r"clicks.parquet: no column 'when' .* it has who, what"),
        (_without("stars"), {}, r"clicks.parquet: no column 'stars' \(named in dataset.interac"),
        (_filled("clicks", "who", [1]), {}, r"clicks.parquet: column 'who' is list<.*expected str"),
        (_filled("clicks", "who", None), {}, r"1,500 of 1,500 .* who is empty"),
        (_filled("clicks", "who", None), {"users": None, "items": None}, "who is empty"),
        (_filled("clicks", "when", 1.6e12), {}, r"when is not a time in seconds"),
        (_filled("things", "kind", [1]), {}, r"things.parquet: column 'kind' is list"),
        (_repeated, {}, r"people.parquet: 1 of 40 users rows .* uid is repeated \(1 rows, such as"),
        (_emptied, {}, "no usable interaction among 0 rows"),
        (
            _filled("clicks", "seen", ["x"]),
            {"clicks": {"history": "seen"}},
            "1,500 of 1,500 ids in column 'seen' are not in the items table: it must hold the ids",
        ),
        (
            _with_own_items_as_history,
            {"clicks": {"history": "seen"}},
            r"column 'seen' ends with the row's own item in (\d+) of \1 rows with label 1, which",
        ),
        (
            None,
            {"clicks": {"history": "sen"}},
            r"no column 'sen' \(named in dataset.interactions\)",
        ),
        (
            _filled("clicks", "device", None),
            {"clicks": {"context": ["device"]}},
            r"'device' \(named in dataset\.interactions\.context\) has no value",
        ),
        (
            _filled("clicks", "device", [1]),
            {"clicks": {"context": ["device"]}},
            "column 'device' is list<",
        ),
        (
            _filled("things", "price", 3.5),
            {"things": {"numeric": ["price"]}},
            "column 'price' .* no two different numbers among training rows",
        ),
        (_too_many_ratings, {}, "'stars' has more than 127 distinct ratings"),
        (None, {"prefix_share": 1.0, "prefix_max": 1000}, "the split 'train' has no samples"),
        (None, {"clicks": {"file": "click.parquet"}}, "no such file; did you mean 'clicks.par"),
        (None, {"things": {"title": "nam"}}, r"no column 'nam' .* did you mean 'name'"),
    ],
)
def test_input_that_cannot_be_used(
    tables: Tables,
    run: Run,
    change: Callable[[Tables], None] | None,
    options: dict[str, Any],
    message: str,
) -> None:
    if change:
        change(tables)
    with pytest.raises(InputError, match=message):
        run(tables, **options)


@pytest.mark.bad_input
def test_a_csv_file_that_is_not_utf8_deep_inside(tables: Tables, run: Run, tmp_path: Path) -> None:
    artifact = run(tables, suffix="csv")
    path = tmp_path / "tables-csv" / "clicks.csv"
    content = path.read_bytes() + b'"caf\xe9",1,5.0,1600000000,"train"\n'
    tables.pop("clicks")
    path.write_bytes(content)
    with pytest.raises(InputError, match="not UTF-8 in line 1,502"):
        run(tables, suffix="csv")
    assert Artifact.open(artifact.path)  # the finished one is as it was


def test_mappings_belong_to_tables(tables: Tables, run: Run) -> None:
    with pytest.raises(ValueError, match="whose columns are known"):
        run(tables, source="world")
    with pytest.raises(ConfigError, match="name a label column or a rating column"):
        run(tables, clicks={"rating": None})


def test_the_world(tmp_path: Path) -> None:
    config = ExperimentConfig.model_validate({"compute": {"workspace": str(tmp_path)}})
    dataset = Dataset.open(prepare.run(config, Console(quiet=True)).path)
    assert list(dataset.schema.item_features) == ["genre"]
    samples = load_samples(dataset, "train")
    assert 0.3 < samples.label_B.mean() < 0.7
    assert (samples.position_B > dataset.history_end()[samples.user_row_B]).all()


@pytest.mark.data
def test_movielens_1m_has_the_known_counts(data_folder: Path, tmp_path: Path) -> None:
    config = ExperimentConfig.model_validate(
        {
            "dataset": {"source": "movielens", "path": str(data_folder / "ml-1m")},
            "compute": {"workspace": str(tmp_path)},
        }
    )
    artifact = prepare.run(config, Console(quiet=True))
    assert artifact.facts["rows"] == {"train": 684_681, "valid": 75_790, "test": 82_989}
    rows, positives = artifact.facts["rows"], artifact.facts["positives"]
    share = sum(rows[split] * positives[split] for split in SPLITS) / sum(rows.values())
    assert share == pytest.approx(0.561, abs=5e-4)
    dataset = Dataset.open(artifact.path)
    test = load_samples(dataset, "test")
    assert len(np.unique(test.user_row_B)) == 604
    assert (test.history_item_BL > 0).all()
    assert dataset.schema.num_items == 3883


@pytest.mark.data
def test_collms_split_has_the_known_counts(data_folder: Path, tmp_path: Path) -> None:
    """Source: the table of CoLLM's notebook; warm rows have a user and an item of train."""
    folder = data_folder / "collm-ml-1m"
    if not folder.is_dir():
        reason = f"no CoLLM split in {data_folder}"
        if os.environ.get("LORECAST_REQUIRE_DATA") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    words = [f"dataset.path={folder}", f"compute.workspace={tmp_path}"]
    config = load_config(REPOSITORY / "configs" / "collm.yaml", words)
    artifact = prepare.run(config, Console(quiet=True))
    assert artifact.facts["rows"] == {"train": 33_891, "valid": 10_401, "test": 7_331}
    assert artifact.facts["positives"] == pytest.approx(
        {"train": 0.5368, "valid": 0.5283, "test": 0.5454}, abs=1e-4
    )
    assert (artifact.facts["users"], artifact.facts["items"]) == (838, 3_255)
    assert artifact.facts["unknown_history_ids"] == 0
    train, valid, test = _all(artifact).values()
    warm = [
        np.isin(part.user_row_B, train.user_row_B) & np.isin(part.item_row_B, train.item_row_B)
        for part in (valid, test)
    ]
    assert [(int(mask.sum()), int((~mask).sum())) for mask in warm] == [
        (6_609, 3_792),
        (4_153, 3_178),
    ]
    empty = [int((part.history_item_BL[:, -1] == 0).sum()) for part in (train, valid, test)]
    assert empty == [1_275, 103, 62]
    assert (train.history_item_BL > 0).sum() == 874_976
