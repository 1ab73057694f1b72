"""`lorecast score`: offline on Ray Data, and the same scores as the scorer that serves."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from lorecast.artifacts import Artifact
from lorecast.config import ComputeConfig, ExperimentConfig
from lorecast.errors import ArtifactError, ConfigError, InputError
from lorecast.jobs import score
from lorecast.jobs.console import Console
from lorecast.jobs.score_input import Job, columns_of
from lorecast.lifecycle.offline import PairColumns
from lorecast.lifecycle.scorer import Scorer
from tests.small_bundle import write_small_bundle
from tests.tiny_dataset import write_tiny_dataset

COLUMNS = PairColumns(user="user_id", item="item_id")
USERS = ["nobody", *(f"u{n}" for n in range(1, 31))]
ITEMS = ["nothing", *(f"i{n}" for n in range(1, 41))]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workspace = tmp_path_factory.mktemp("bundle")
    return write_small_bundle(workspace, write_tiny_dataset(workspace, rich=True))


@pytest.fixture(scope="module")
def scorer(bundle: Path) -> Scorer:
    return Scorer.load(bundle)


@pytest.fixture
def config(tmp_path: Path) -> ExperimentConfig:
    return ExperimentConfig(compute=ComputeConfig(workspace=str(tmp_path / "workspace"), scorers=2))


@pytest.fixture
def pairs(rng: np.random.Generator) -> pa.Table:
    """500 pairs, some of them unknown, with one of the model's two contexts."""
    draw = {"user_id": USERS, "item_id": ITEMS, "device": ["tv", "phone", "fridge"]}
    return pa.table({name: rng.choice(values, 500) for name, values in draw.items()})


def run(config: ExperimentConfig, bundle: Path, out: Path | None = None, **job: object) -> Artifact:
    return score.run(
        config, Job(columns=COLUMNS, **job), Console(quiet=True), bundle=bundle, out=out
    )


def expected(scorer: Scorer, pairs: pa.Table) -> np.ndarray:
    contexts = [{"device": device} for device in pairs["device"].to_pylist()]
    users, items = (pairs[name].to_pylist() for name in ("user_id", "item_id"))
    return scorer.score(users, items, None, contexts)


@pytest.mark.invariant
@pytest.mark.usefixtures("ray_cluster")
def test_pairs_score_as_when_served(
    config: ExperimentConfig,
    bundle: Path,
    scorer: Scorer,
    pairs: pa.Table,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(score, "_BLOCK_ROWS", 128)
    folder = tmp_path / "pairs"
    folder.mkdir()
    pq.write_table(pairs.slice(0, 300), folder / "a.parquet")
    pq.write_table(pairs.slice(300), folder / "b.parquet")
    artifact = run(config, bundle, tmp_path / "out", pairs=folder)
    assert len(list((artifact.path / score.SCORES).iterdir())) == 4
    found = pq.read_table(tmp_path / "out")
    assert found.select(pairs.column_names).equals(pairs)
    np.testing.assert_allclose(found["score"], expected(scorer, pairs), rtol=0, atol=1e-6)
    assert np.ptp(found["score"]) > 1e-3
    known = {"user_known": ("user_id", "nobody"), "item_known": ("item_id", "nothing")}
    for flag, (column, stranger) in known.items():
        assert found[flag].to_pylist() == [id_ != stranger for id_ in pairs[column].to_pylist()]
    facts = artifact.facts
    assert (facts["rows"], facts["pairs"]) == (500, 500)
    assert facts["unknown"] == {
        "user": pairs["user_id"].to_pylist().count("nobody"),
        "item": pairs["item_id"].to_pylist().count("nothing"),
        "device": pairs["device"].to_pylist().count("fridge"),
    }
    assert facts["unknown_examples"] == {"user": ["nobody"], "item": ["nothing"]}
    one = scorer.candidates("u4", ["i7"], None, {"device": "tv"}).score_N
    assert expected(scorer, pa.table({"user_id": ["u4"], "item_id": ["i7"], "device": ["tv"]})) == (
        pytest.approx(one, abs=1e-6)
    )


@pytest.mark.usefixtures("ray_cluster")
def test_csv_and_ids_missing_in_some_rows(
    config: ExperimentConfig, bundle: Path, scorer: Scorer, pairs: pa.Table, tmp_path: Path
) -> None:
    pa_csv.write_csv(pairs, tmp_path / "pairs.csv")
    with (tmp_path / "pairs.csv").open("a") as file:
        file.write('"u1",,"tv"\n"u1"\n')
    artifact = run(config, bundle, pairs=tmp_path / "pairs.csv")
    found = pq.read_table(artifact.path / score.SCORES)
    assert found.num_rows == 501
    np.testing.assert_allclose(
        found["score"].to_numpy()[:500], expected(scorer, pairs), rtol=0, atol=1e-6
    )
    assert found["item_known"][500].as_py() is False
    assert artifact.facts["malformed_lines"] == 1


@pytest.mark.usefixtures("ray_cluster")
def test_finished_parts_stay(
    config: ExperimentConfig,
    bundle: Path,
    pairs: pa.Table,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(score, "_BLOCK_ROWS", 100)
    table = tmp_path / "pairs.parquet"
    pq.write_table(pairs, table)
    whole = run(config, bundle, pairs=table)
    parts = sorted((whole.path / score.SCORES).iterdir())
    first = pq.read_table(whole.path / score.SCORES)
    (whole.path / "manifest.json").unlink()  # as if it had been killed before the last two
    for part in parts[3:]:
        part.unlink()
    kept = {part: part.stat().st_mtime_ns for part in parts[:3]}
    again = run(config, bundle, pairs=table)
    assert {part: part.stat().st_mtime_ns for part in parts[:3]} == kept
    assert pq.read_table(again.path / score.SCORES).equals(first)
    assert again.facts["pairs"] == 500
    assert run(config, bundle, pairs=table).manifest == again.manifest
    assert not (again.path / "blocks").exists()


@pytest.mark.usefixtures("ray_cluster")
def test_top_is_the_ranking_that_is_served(
    config: ExperimentConfig, bundle: Path, scorer: Scorer, tmp_path: Path
) -> None:
    artifact = run(config, bundle, top=3)
    found = pq.read_table(artifact.path / score.SCORES).to_pylist()
    assert len(found) == 3 * 30
    assert artifact.facts["pairs"] == 30 * 40
    for user in ("u1", "u17"):
        mine = [row for row in found if row["user_id"] == user]
        ranked = scorer.rank(user, 3)
        assert [row["place"] for row in mine] == [1, 2, 3]
        assert [row["item_id"] for row in mine] == ranked.item_ids
        np.testing.assert_allclose([r["score"] for r in mine], ranked.score_N, rtol=0, atol=1e-6)

    listed = ["i9", "nothing", "i2", "i9"]
    pq.write_table(pa.table({"item_id": listed}), tmp_path / "items.parquet")
    artifact = run(config, bundle, top=10, items=tmp_path / "items.parquet")
    found = pq.read_table(artifact.path / score.SCORES).to_pylist()
    mine = [row["item_id"] for row in found if row["user_id"] == "u5"]
    assert mine == scorer.rank("u5", 3, listed[:3]).item_ids
    assert artifact.facts["unknown"] == {"item": 30}


def test_columns_are_called_as_in_the_dataset() -> None:
    movies = ExperimentConfig.model_validate({"dataset": {"source": "movielens"}})
    assert columns_of(ExperimentConfig(), None, None) == COLUMNS
    assert columns_of(movies, None, None) == PairColumns(user="user_id", item="movie_id")
    own = {"file": "clicks.csv", "user": "who", "item": "what", "label": "bought"}
    tables = ExperimentConfig.model_validate({"dataset": {"source": "tables", "interactions": own}})
    assert columns_of(tables, None, "sku") == PairColumns(user="who", item="sku")


@pytest.mark.bad_input
def test_what_cannot_be_scored(config: ExperimentConfig, bundle: Path, tmp_path: Path) -> None:
    table = tmp_path / "pairs.parquet"
    pq.write_table(pa.table({"user": ["u1"], "item_id": ["i1"]}), table)
    with pytest.raises(InputError, match=r"no column 'user_id'.*did you mean 'user'"):
        run(config, bundle, pairs=table)
    with pytest.raises(InputError, match=r"absent\.parquet"):
        run(config, bundle, pairs=tmp_path / "absent.parquet")
    with pytest.raises(ConfigError, match="--pairs FILE"):
        run(config, bundle)
    with pytest.raises(ConfigError, match="--items"):
        run(config, bundle, pairs=table, items=table)
    with pytest.raises(InputError, match="--out takes a new folder"):
        run(config, bundle, tmp_path, top=1)
    with pytest.raises(ArtifactError, match="nowhere"):
        run(config, tmp_path / "nowhere", top=1)
    with pytest.raises(ConfigError, match="two models"):
        score.run(
            config,
            Job(top=1, columns=COLUMNS),
            Console(quiet=True),
            bundle=bundle,
            model="models:/films/1",
        )
    for number, kind in enumerate((pa.int32(), pa.string())):
        ids = {"user_id": pa.array(["1"]).cast(kind), "item_id": ["i1"]}
        (tmp_path / "mixed").mkdir(exist_ok=True)
        pq.write_table(pa.table(ids), tmp_path / "mixed" / f"{number}.parquet")
    with pytest.raises(InputError, match=r"'user_id' is string, and in .* it is int32"):
        run(config, bundle, pairs=tmp_path / "mixed")


@pytest.mark.bad_input
@pytest.mark.usefixtures("ray_cluster")
def test_ids_of_a_type_that_holds_none(
    config: ExperimentConfig, bundle: Path, tmp_path: Path
) -> None:
    table = tmp_path / "pairs.parquet"
    pq.write_table(pa.table({"user_id": [[1]], "item_id": ["i1"]}), table)
    with pytest.raises(InputError, match=r"column 'user_id' is list.*strings or integers"):
        run(config, bundle, pairs=table)


@pytest.mark.usefixtures("ray_cluster")
def test_says_what_it_did(
    config: ExperimentConfig, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "pairs.parquet"
    pq.write_table(pa.table({"user_id": ["u1", "who"], "item_id": ["i1", "i2"]}), table)
    score.run(config, Job(pairs=table, columns=COLUMNS), Console(as_json=True), bundle=bundle)
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    notes = [event["text"] for event in events if event["event"] == "note"]
    assert any("1 pairs with an unknown user" in note and "who" in note for note in notes)
    assert any("no device, hour" in note for note in notes)
    result = events[-1]
    assert result["event"] == "result"
    assert pq.read_table(result["scores"]).num_rows == 2
    assert (
        result["model_version"] == f"bundle-{Scorer.load(bundle).bundle.fingerprints['model'][:8]}"
    )
