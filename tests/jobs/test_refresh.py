"""`lorecast refresh` on prepared tables, scripted texts and MLflow, against the whole made anew."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from ray.cloudpickle import register_pickle_by_value

from lorecast.artifacts import Artifact
from lorecast.config import ExperimentConfig, load_config
from lorecast.data.dataset import Dataset
from lorecast.encoding.encoder import HashEncoder
from lorecast.encoding.vectors import VectorsTable
from lorecast.errors import ArtifactError, BadRowsError, ConfigError, InputError
from lorecast.jobs import encode, generate, prepare, promote, refresh, register
from lorecast.jobs.console import Console
from lorecast.jobs.refresh_input import NewTables
from lorecast.knowledge.engine import ScriptedEngine
from lorecast.lifecycle.bundle import Bundle
from lorecast.lifecycle.history import History
from lorecast.lifecycle.mlflow_registry import MLflowRegistry, open_registry
from lorecast.lifecycle.registry import CHALLENGER, ModelVersion, fetch
from lorecast.lifecycle.scorer import Scorer
from lorecast.lifecycle.texts import read_texts
from tests.small_bundle import make_model, write_trained

pytestmark = pytest.mark.usefixtures("ray_cluster")
register_pickle_by_value(sys.modules[__name__])  # workers cannot import tests

QUIET = Console(quiet=True)
NUM_USERS, NUM_ITEMS, CLICKS = 20, 30, 12
_GENRES = ("Comedy", "Drama", "Western")


def _engine() -> ScriptedEngine:
    return ScriptedEngine(lambda prompt: f"About {prompt}")


def _entities(first: int, last: int) -> dict[str, pa.Table]:
    """Items and users by number."""
    numbers = range(first, last)
    return {
        "items": pa.table(
            {
                "item_id": [f"i{n}" for n in numbers],
                "title": [f"Film {n}" for n in numbers],
                "genre": [_GENRES[n % 3] for n in numbers],
                "price": [float(n % 7) for n in numbers],
            }
        ),
        "users": pa.table(
            {"user_id": [f"u{n}" for n in numbers], "region": [f"r{n % 2}" for n in numbers]}
        ),
    }


def _clicks(rows: list[tuple[int, int, int, int]]) -> pa.Table:
    """(user, item, rating, time)."""
    user, item, rating, time = zip(*rows, strict=True)
    return pa.table(
        {
            "user_id": [f"u{n}" for n in user],
            "item_id": [f"i{n}" for n in item],
            "rating": rating,
            "timestamp": time,
        }
    )


@dataclass
class Shop:
    """Tables, and a model of theirs under a name of its own."""

    folder: Path
    model: str
    tables: dict[str, pa.Table]
    overrides: tuple[str, ...] = ()

    @property
    def config(self) -> ExperimentConfig:
        return self.config_of(self.folder / "tables")

    def config_of(self, tables: Path) -> ExperimentConfig:
        said = "{kind: generate, name: %s, side: %s, factor_set: films, factors: [genre, mood]}"
        return load_config(
            None,
            [
                "name=shop",
                f"compute.workspace={self.folder / 'workspace'}",
                "dataset.source=tables",
                f"dataset.path={tables}",
                "dataset.interactions={file: interactions.parquet, rating: rating}",
                "dataset.items={file: items.parquet, id: item_id, title: title, text: [genre], "
                "features: [genre], numeric: [price]}",
                "dataset.users={file: users.parquet, id: user_id, text: [region]}",
                "dataset.prefix_max=2",
                "dataset.history_length=5",
                "knowledge.llm.model=test/scripted",
                f"knowledge.fields=[{said % ('facts', 'item')}, {said % ('taste', 'user')}]",
                "serving.prestore=false",
                f"registry.model_name={self.model}",
                *self.overrides,
            ],
        )

    def write(self, tables: dict[str, pa.Table], name: str) -> Path:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        for table, rows in tables.items():
            pq.write_table(rows, folder / f"{table}.parquet")
        return folder

    def trained(self) -> "Shop":
        """Registers version 1 of a model with random weights."""
        self.write(self.tables, "tables")
        dataset, knowledge, vectors = self.known(self.config)
        workspace = Path(self.config.compute.workspace)
        trained = write_trained(workspace, make_model(dataset, vectors), dataset, vectors)
        register.run(self.config, trained, dataset, vectors, knowledge, QUIET)
        return self

    def known(self, config: ExperimentConfig) -> tuple[Dataset, Artifact, VectorsTable]:
        dataset = Dataset.open(prepare.run(config, QUIET).path)
        knowledge = generate.run(config, dataset, QUIET, make_engine=_engine)
        encoded = encode.run(config, dataset, knowledge, QUIET, make_encoder=HashEncoder)
        return dataset, knowledge, VectorsTable.open(encoded.path)

    def refresh(self, new: dict[str, pa.Table], name: str = "new", **options: Any) -> ModelVersion:
        folder = self.write(new, name)
        paths = {table: folder / f"{table}.parquet" for table in new}
        return refresh.run(
            self.config,
            NewTables(**paths),
            QUIET,
            make_engine=_engine,
            make_encoder=HashEncoder,
            **options,
        )

    def bundle(self) -> Bundle:
        """The champion's."""
        reference = f"models:/{self.model}@champion"
        return Bundle.open(fetch(self.registry, reference, self.folder / "workspace")[0])

    def facts(self, version: ModelVersion) -> dict[str, Any]:
        """Of the refresh that made it."""
        for manifest in (self.folder / "workspace" / "refresh").glob("*/manifest.json"):
            artifact = Artifact.open(manifest.parent)
            found = self.registry.find(self.model, artifact.fingerprint)
            if found is not None and found.number == version.number:
                return dict(artifact.facts)
        raise AssertionError("no refresh made it")

    def history(self) -> list[tuple[str, int]]:
        records = History.read(self.registry, self.model).records
        return [(record.action, record.version) for record in records]

    @property
    def registry(self) -> MLflowRegistry:
        return open_registry(self.config)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All tests' workspace: what is prepared, told and encoded once serves all."""
    return tmp_path_factory.mktemp("shop")


@pytest.fixture
def shop(
    folder: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Shop]:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def make(*overrides: str) -> Shop:
        rng = np.random.default_rng(0)
        rows = [
            (user, int(rng.integers(1, NUM_ITEMS + 1)), int(rng.integers(1, 6)), 1000 * click)
            for user in range(1, NUM_USERS + 1)
            for click in range(1, CLICKS + 1)
        ]
        items, users = _entities(1, NUM_ITEMS + 1)["items"], _entities(1, NUM_USERS + 1)["users"]
        tables = {"interactions": _clicks(rows), "items": items, "users": users}
        name = "".join(c if c.isalnum() else "-" for c in request.node.name)
        return Shop(folder, name, tables, overrides).trained()

    return make


def _new(*rows: tuple[int, int, int, int]) -> dict[str, pa.Table]:
    """Two items, two users, one of whom clicked, and these clicks."""
    known = [(2, 31, 5, 50_000), (2, 4, 1, 51_000), (9, 3, 2, 50_500)]
    of_new = [(21, item, 4, 60_000 + item) for item in (31, 5, 6, 32, 7, 8, 9)]
    tables = _entities(31, 33)
    users = _entities(21, 23)["users"]
    return {
        "interactions": _clicks([*known, *of_new, *rows]),
        "items": tables["items"],
        "users": users,
    }


def test_a_refresh_is_the_whole_made_anew_and_asks_what_is_new(
    shop: Callable[..., Shop],
) -> None:
    made = shop()
    version = made.refresh(_new())
    assert version.number == 2
    bundle, facts = made.bundle(), made.facts(version)

    # 2 items and 2 users, 2 factors each.
    assert (facts["prompts"], facts["prompts_asked"], facts["texts_encoded"]) == (8, 8, 8)
    assert (facts["new_items"], facts["new_users"], facts["clicks"]) == (2, 2, 10)
    assert facts["longer_histories"] == 3
    assert facts["largest_difference"] == 0

    grown = {name: pa.concat_tables([made.tables[name], rows]) for name, rows in _new().items()}
    dataset, knowledge, vectors = made.known(made.config_of(made.write(grown, "grown")))
    assert knowledge.facts["generated"] == 0, "every prompt of the whole was asked already"
    for side, table in (("item", dataset.items()), ("user", dataset.users())):
        own = bundle.entities(side)
        for name in set(own.column_names) & set(table.column_names) - {"numeric:price"}:
            assert own[name].to_pylist() == table[name].to_pylist(), (side, name)
    stored = bundle.open_knowledge()
    for side in ("item", "user"):
        np.testing.assert_array_equal(stored.vectors(side), vectors.vectors(side))
        np.testing.assert_array_equal(stored.mask(side), vectors.mask(side))
    np.testing.assert_array_equal(bundle.history_end(), vectors.user_history_end)
    assert bundle.history_end()[21] == 1, "texts about new users know the first clicks alone"

    first = Dataset.open(prepare.run(made.config, QUIET).path)
    prices = first.items()["numeric:price"].to_numpy()
    raw = made.tables["items"]["price"].to_numpy()
    slope, start = np.polyfit(raw, prices, 1)
    np.testing.assert_allclose(
        bundle.entities("item")["numeric:price"].to_numpy()[-2:],
        start + slope * np.array([31 % 7, 32 % 7]),
        atol=1e-5,
    )


def test_the_champion_moves_goes_back_and_comes_again_at_no_cost(
    shop: Callable[..., Shop],
) -> None:
    made = shop()
    registry = made.registry
    assert made.refresh(_new(), serve=False).number == 2
    assert registry.aliases(made.model) == {"champion": 1, "challenger": 1}
    assert made.refresh(_new()).number == 2
    assert registry.aliases(made.model) == {"champion": 2, "challenger": 1, "previous": 1}
    assert made.history() == [("first", 1), ("refreshed", 2)]
    assert made.refresh(_new()).number == 2, "the champion has these rows"
    assert len(made.history()) == 2

    scorer = Scorer.load(made.bundle().path)
    assert scorer.candidates("u22", ["i31", "i32"]).unknown.item_ids == ()
    promote.rollback(made.config, QUIET, reason="a test")
    assert registry.aliases(made.model)["champion"] == 1
    assert made.refresh(_new()).number == 2
    assert [action for action, _ in made.history()][2:] == ["rolled back", "refreshed"]

    more = _new((3, 32, 5, 90_000))
    more = {"interactions": more["interactions"].slice(10)}
    assert made.refresh(more, "more").number == 3
    assert made.bundle().num_items == 32
    assert registry.resolve(made.model, CHALLENGER).number == 1


def test_another_model_than_the_champion_is_registered_alone(shop: Callable[..., Shop]) -> None:
    made = shop()
    made.refresh(_new())
    version = made.refresh(
        {"interactions": _clicks([(1, 1, 5, 70_000)])},
        "to-version-1",
        model=f"models:/{made.model}/1",
    )
    assert version.number == 3
    assert made.registry.aliases(made.model)["champion"] == 2


def test_items_may_come_before_anybody_clicked(shop: Callable[..., Shop]) -> None:
    made = shop()
    version = made.refresh({"items": _new()["items"]}, "items-alone")
    facts = made.facts(version)
    assert (facts["new_items"], facts["clicks"], facts["longer_histories"]) == (2, 0, 0)
    scorer = Scorer.load(made.bundle().path)
    assert scorer.candidates("u1", ["i31", "i32"]).unknown.item_ids == ()


@pytest.mark.parametrize("prestore", ["true", "false"])
def test_vectors_take_the_components_of_the_model(shop: Callable[..., Shop], prestore: str) -> None:
    made = shop("encoding.components=4", f"serving.prestore={prestore}")
    made.refresh(_new())
    bundle = made.bundle()
    assert bool(bundle.prestored) == (prestore == "true")
    scorer = Scorer.load(bundle.path)
    first, second = scorer.score(["u1", "u1"], ["i31", "i32"])
    assert first != second
    if bundle.prestored:
        return
    (components,) = (made.folder / "workspace" / "encode").glob("shop-*/components.npy")
    basis = np.load(components)
    texts = read_texts(bundle.path, "item", 31)
    assert texts is not None
    wanted = HashEncoder().encode([text.text for text in texts]).astype(np.float32) @ basis
    found = bundle.open_knowledge().vectors("item")[31]
    np.testing.assert_array_equal(found, wanted.astype(np.float16))


@pytest.mark.parametrize(
    ("row", "told"),
    [((3, 99, 5, 70_000), "item_id is not in the items"), ((99, 3, 5, 70_000), "user_id is not")],
)
@pytest.mark.bad_input
def test_a_click_that_names_nobody_stops_it(
    shop: Callable[..., Shop], row: tuple[int, int, int, int], told: str
) -> None:
    made = shop()
    with pytest.raises(BadRowsError, match=told):
        made.refresh(_new(row), "wrong")
    assert made.history() == [("first", 1)]


@pytest.mark.bad_input
def test_late_and_repeated_clicks_are_left_out_and_told(shop: Callable[..., Shop]) -> None:
    made = shop()
    last = made.tables["interactions"].filter(
        pc.equal(made.tables["interactions"]["user_id"], "u5")
    )
    known = int(last["item_id"][CLICKS - 1].as_py()[1:])
    at = 1000 * CLICKS
    rows = [(5, 1, 3, 500), (5, known, 3, at), (5, known % 30 + 1, 3, at), (6, 2, 3, 20_000)]
    version = made.refresh({"interactions": _clicks([*rows, rows[-1]])}, "late")
    facts = made.facts(version)
    assert (facts["clicks"], facts["late_clicks"], facts["repeated_clicks"]) == (2, 1, 2)
    assert facts["prompts_asked"] == 0
    users = made.bundle().entities("user")
    assert users["recent_item_rows"][4].as_py()[-2:] == [known, known % 30 + 1]


@pytest.mark.bad_input
def test_what_is_not_at_hand_is_named(shop: Callable[..., Shop], tmp_path: Path) -> None:
    made = shop()
    with pytest.raises(InputError, match="no column 'rating'"):
        made.refresh(
            {"interactions": _clicks([(1, 1, 5, 70_000)]).drop_columns("rating")}, "unrated"
        )
    with pytest.raises(ConfigError, match="--interactions, --items or --users"):
        made.refresh({})
    with pytest.raises(InputError, match=r"nowhere.parquet \(--interactions\)"):
        refresh.run(made.config, NewTables(interactions=tmp_path / "nowhere.parquet"), QUIET)
    other = Shop(made.folder, made.model, made.tables, ("knowledge.llm.max_tokens=7",))
    with pytest.raises(ArtifactError, match="sections `knowledge` and `encoding`"):
        other.refresh(_new(), "other")
    unmapped = Shop(made.folder, made.model, made.tables, ("dataset.users=null",))
    with pytest.raises(ConfigError, match=r"no dataset\.users"):
        unmapped.refresh(_new(), "other")
