"""`lorecast init`: the file it writes loads, says what is meant, and prepares."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from lorecast.config import DatasetConfig, ExperimentConfig, load_config
from lorecast.data.dataset import Dataset
from lorecast.errors import InputError
from lorecast.jobs import prepare
from lorecast.jobs.console import Console
from lorecast.jobs.init import init

NUM_USERS, NUM_ITEMS, NUM_ROWS = 60, 45, 2000


def _shop_of_strings(folder: Path, rng: np.random.Generator) -> None:
    """CSV, string ids, ISO times, a click label; customers have no table."""
    customers = np.array([f"c-{n:04d}" for n in range(NUM_USERS)])
    products = np.array([f"p-{n:04d}" for n in range(NUM_ITEMS)])
    start = np.datetime64("2024-01-01T00:00:00")
    events = pa.table(
        {
            "event_id": range(NUM_ROWS),
            "customer": customers[rng.integers(0, NUM_USERS, NUM_ROWS)],
            "product": products[rng.integers(0, NUM_ITEMS, NUM_ROWS)],
            "clicked": rng.integers(0, 2, NUM_ROWS),
            "created_at": (start + rng.integers(0, 10**7, NUM_ROWS)).astype(str),
        }
    )
    catalogue = pa.table(
        {
            "product": products,
            "name": [f"Fine product {n}" for n in range(NUM_ITEMS)],
            "brand": np.array(["Acme", "Best"])[rng.integers(0, 2, NUM_ITEMS)],
            "clicks_last_week": range(100, 100 + NUM_ITEMS),
        }
    )
    pa_csv.write_csv(events, folder / "events.csv")
    pa_csv.write_csv(catalogue, folder / "catalogue.csv")


def _films_of_integers(folder: Path, rng: np.random.Generator) -> None:
    """Parquet, integer ids that overlap between users and films, ratings, seconds."""
    views = pa.table(
        {
            "user_seq": rng.permutation(NUM_ROWS) % 500,
            "movieId": rng.integers(1, NUM_ITEMS + 1, NUM_ROWS),
            "userId": rng.integers(1, NUM_USERS + 1, NUM_ROWS),
            "ts": rng.integers(1_500_000_000, 1_600_000_000, NUM_ROWS),
            "score": rng.integers(1, 11, NUM_ROWS) / 2,
        }
    )
    films = pa.table(
        {
            "id": range(1, NUM_ITEMS + 1),
            "title": [f"Film {n}" for n in range(NUM_ITEMS)],
            "genre": ["Drama", "Comedy", "War"] * (NUM_ITEMS // 3),
            "moods": ["dark|slow", "light", "dark"] * (NUM_ITEMS // 3),
            "awards": [["Bear"], [], ["Bear", "Palm"]] * (NUM_ITEMS // 3),
            "cast": [f"Ann {n}, Bob {n}" for n in range(NUM_ITEMS)],
            "length": rng.normal(100, 10, NUM_ITEMS),
            "plot": ["A long story. " * 60] * NUM_ITEMS,
        }
    )
    people = pa.table({"userId": range(1, NUM_USERS + 1), "gender": ["f", "m"] * (NUM_USERS // 2)})
    pq.write_table(views, folder / "views.parquet")
    pq.write_table(films, folder / "movies.parquet")
    pq.write_table(people, folder / "users.parquet")


def _one_table_with_parts(folder: Path, rng: np.random.Generator) -> None:
    """A folder of Parquet files, timestamps, a split column; no other tables."""
    (folder / "log").mkdir()
    for part in range(2):
        table = pa.table(
            {
                "viewer_id": rng.integers(1, NUM_USERS + 1, NUM_ROWS),
                "video_id": rng.integers(1, NUM_ITEMS + 1, NUM_ROWS),
                "liked": rng.integers(0, 2, NUM_ROWS).astype(bool),
                "when": (1_600_000_000 + rng.integers(0, 10**6, NUM_ROWS)).astype("datetime64[s]"),
                "split": rng.choice(["train", "valid", "test"], NUM_ROWS),
            }
        )
        pq.write_table(table, folder / "log" / f"{part}.parquet")


def _meaning(dataset: DatasetConfig) -> dict[str, object]:
    assert dataset.interactions is not None
    interactions = dataset.interactions.model_dump(exclude_defaults=True)
    sides = {
        side: mapping.model_dump(exclude_defaults=True)
        for side, mapping in (("users", dataset.users), ("items", dataset.items))
        if mapping is not None
    }
    return {**interactions, **sides, "split": dataset.split.by}


MEANT = {
    _shop_of_strings: {
        "file": "events.csv",
        "user": "customer",
        "item": "product",
        "label": "clicked",
        "timestamp": "created_at",
        "items": {
            "file": "catalogue.csv",
            "id": "product",
            "title": "name",
            "text": ("brand",),
            "features": ("brand",),
        },
        "split": "user",
    },
    _films_of_integers: {
        "file": "views.parquet",
        "user": "userId",
        "item": "movieId",
        "rating": "score",
        "timestamp": "ts",
        "users": {
            "file": "users.parquet",
            "id": "userId",
            "text": ("gender",),
            "features": ("gender",),
        },
        "items": {
            "file": "movies.parquet",
            "id": "id",
            "title": "title",
            "text": ("genre", "moods", "awards", "cast"),
            "features": ("genre",),
            "multi": ({"column": "moods", "separator": "|"}, {"column": "awards"}),
        },
        "split": "user",
    },
    _one_table_with_parts: {
        "file": "log",
        "user": "viewer_id",
        "item": "video_id",
        "label": "liked",
        "timestamp": "when",
        "split": "column",
    },
}


@pytest.mark.parametrize("write", MEANT, ids=lambda write: write.__name__.strip("_"))
@pytest.mark.usefixtures("ray_cluster")
def test_written_experiment_prepares(write: object, tmp_path: Path) -> None:
    folder = tmp_path / "my tables"
    folder.mkdir()
    write(folder, np.random.default_rng(0))  # type: ignore[operator]
    output = tmp_path / "mine.yaml"
    init(folder, output)
    config = load_config(output, [f"compute.workspace={tmp_path / 'workspace'}"])
    assert _meaning(config.dataset) == MEANT[write]
    assert config.name == "my-tables"
    artifact = prepare.run(config, Console(quiet=True))
    assert artifact.facts["rejected"] == {}
    assert Dataset.open(artifact.path).schema.num_items == NUM_ITEMS


def test_likes_begin_at_the_upper_half_of_another_scale(tmp_path: Path) -> None:
    _films_of_integers(tmp_path, np.random.default_rng(0))
    output = tmp_path / "mine.yaml"
    init(tmp_path, output)
    assert load_config(output).dataset.positive_rating == 4.0  # stars up to 5, in halves
    table = pq.read_table(tmp_path / "views.parquet")
    ten = pa.array(np.arange(NUM_ROWS) % 10 + 1)
    table = table.set_column(table.schema.get_field_index("score"), "score", ten)
    pq.write_table(table, tmp_path / "views.parquet")
    output.unlink()
    init(tmp_path, output)
    assert load_config(output).dataset.positive_rating == 6.0


def test_numbers_are_left_to_the_reader(tmp_path: Path) -> None:
    _films_of_integers(tmp_path, np.random.default_rng(0))
    init(tmp_path, tmp_path / "mine.yaml")
    assert "    # numeric: [length]  # unless clicks" in (tmp_path / "mine.yaml").read_text()


def test_movielens_is_recognised(tmp_path: Path) -> None:
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,2,3.5,4\n")
    (tmp_path / "movies.csv").write_text("movieId,title,genres\n2,Bell (1990),Drama\n")
    init(tmp_path, tmp_path / "mine.yaml")
    config = load_config(tmp_path / "mine.yaml")
    assert (config.dataset.source, config.dataset.path) == ("movielens", str(tmp_path))


@pytest.mark.bad_input
def test_nothing_is_overwritten(tmp_path: Path) -> None:
    output = tmp_path / "mine.yaml"
    output.write_text("name: kept\n")
    with pytest.raises(InputError, match="exists already"):
        init(tmp_path, output)
    assert load_config(output) == ExperimentConfig(name="kept")


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({}, "no Parquet or CSV file"),
        ({"user": [1, 1], "item": [1, 2], "rating": [1, 2]}, "a.csv has no column for the time"),
        ({"user": [1, 1], "ts": [10**9, 10**9]}, "no column for a rating or label"),
        (
            {"user": [1, 2], "ts": [10**9, 10**9], "click": [0, 1]},
            "no column for the ids of users and",
        ),
    ],
)
def test_what_cannot_be_guessed_is_said(
    tmp_path: Path, columns: dict[str, list[int]], message: str
) -> None:
    if columns:
        pa_csv.write_csv(pa.table(columns), tmp_path / "a.csv")
    with pytest.raises(InputError, match=message):
        init(tmp_path, tmp_path / "mine.yaml")
    assert not (tmp_path / "mine.yaml").exists()
