"""A bundle goes anywhere and scores as the model did; what is wrong with one is said."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

from lorecast.data.batches import load_samples
from lorecast.data.dataset import Dataset
from lorecast.errors import ArtifactError, InputError
from lorecast.lifecycle.bundle import Bundle
from lorecast.lifecycle.history import enrol
from lorecast.lifecycle.mlflow_registry import MLflowRegistry
from lorecast.lifecycle.registry import RunRecord
from lorecast.lifecycle.scorer import Query, Scorer
from lorecast.models.inputs import Batch
from tests.small_bundle import make_model, write_small_bundle, write_vectors
from tests.tiny_dataset import write_tiny_dataset


@pytest.fixture
def workspace(tiny_dataset: Dataset) -> Path:
    return tiny_dataset.path.parents[1]


@pytest.fixture
def bundle(workspace: Path, tiny_dataset: Dataset) -> Path:
    return write_small_bundle(workspace, tiny_dataset)


@pytest.fixture
def scorer(bundle: Path) -> Scorer:
    return Scorer.load(bundle)


@pytest.mark.invariant
@pytest.mark.parametrize(
    ("knowledge", "rich"), [(True, False), (False, False), (True, True), (False, True)]
)
def test_scores_equal_the_models(tmp_path: Path, knowledge: bool, rich: bool) -> None:
    workspace = tmp_path / "workspace"
    dataset = write_tiny_dataset(workspace, rich=rich)
    vectors = write_vectors(workspace, dataset) if knowledge else None
    model = make_model(dataset, vectors)
    samples = load_samples(dataset, "test")
    with torch.inference_mode():
        expected = torch.sigmoid(model(Batch.of(samples))).numpy()

    folder = write_small_bundle(workspace, dataset, knowledge=knowledge)
    moved = folder.rename(tmp_path / "moved")
    shutil.rmtree(workspace)
    items = [f"i{row}" for row in samples.item_row_B]
    histories = [
        [(f"i{row}", level) for row, level in zip(rows, levels, strict=True) if row]
        for rows, levels in zip(samples.history_item_BL, samples.history_rating_BL, strict=True)
    ]
    users = [f"u{row}" for row in samples.user_row_B]
    contexts = [
        {
            name: dataset.contexts[name][code - 1]
            for name, code in zip(dataset.contexts, codes, strict=True)
            if code
        }
        for codes in samples.context_BK
    ]
    scored = Scorer.load(moved).score(users, items, histories, contexts)
    np.testing.assert_allclose(scored, expected, rtol=0, atol=1e-6)
    assert np.ptp(scored) > 1e-3


def test_candidates_equal_pairs(scorer: Scorer) -> None:
    items = [f"i{n}" for n in range(1, 41)]
    history = [("i3", 5), ("i4", 1), ("i5", 3)]
    one_user = scorer.candidates("u7", items, history).score_N
    pairs = scorer.score(["u7"] * 40, items, [history] * 40)
    np.testing.assert_allclose(one_user, pairs, rtol=0, atol=1e-6)


def test_default_history_is_the_recent_one(scorer: Scorer, tiny_dataset: Dataset) -> None:
    users = tiny_dataset.users().to_pylist()
    rows, levels = users[4]["recent_item_rows"], users[4]["recent_ratings"]
    history = [(f"i{row}", level) for row, level in zip(rows, levels, strict=True) if row]
    default = scorer.candidates("u5", ["i1", "i2"]).score_N
    np.testing.assert_array_equal(default, scorer.candidates("u5", ["i1", "i2"], history).score_N)
    none = scorer.candidates("u5", ["i1", "i2"], []).score_N
    assert not np.array_equal(default, none)


def test_only_the_last_known_entries_count(scorer: Scorer) -> None:
    last = [(f"i{n}", 4) for n in range(1, 6)]
    longer = [("i9", 1), *last[:2], ("never seen", 5), *last[2:]]
    scored = scorer.candidates("u5", ["i1"], longer)
    np.testing.assert_array_equal(scored.score_N, scorer.candidates("u5", ["i1"], last).score_N)
    assert scored.unknown.history_item_ids == ("never seen",)


def test_ratings_take_the_nearest_level(scorer: Scorer) -> None:
    near = scorer.candidates("u5", ["i1"], [("i2", 3.6), ("i3", 1.2)]).score_N
    np.testing.assert_array_equal(
        near, scorer.candidates("u5", ["i1"], [("i2", 4), ("i3", 1)]).score_N
    )


def test_histories_of_items_alone(workspace: Path, tiny_dataset: Dataset) -> None:
    assert Scorer.load(write_small_bundle(workspace, tiny_dataset)).rating_range == (1, 5)
    unrated = replace(tiny_dataset, rates_histories=False)
    scorer = Scorer.load(write_small_bundle(workspace, unrated))
    assert scorer.rating_range is None
    alone = scorer.candidates("u5", ["i1"], [("i2", None), ("i3", None)]).score_N
    rated = scorer.candidates("u5", ["i1"], [("i2", 1), ("i3", 1)]).score_N
    assert np.isfinite(alone).all()
    assert not np.array_equal(alone, rated)


def test_a_bundle_from_before_unrated_histories_rates_them(bundle: Path) -> None:
    path = bundle / "bundle.json"
    card = json.loads(path.read_text())
    del card["rates_histories"]
    path.write_text(json.dumps(card))
    assert Scorer.load(bundle).rating_range == (1, 5)


def test_features_of_every_kind_are_in_the_bundle(tmp_path: Path) -> None:
    dataset = write_tiny_dataset(tmp_path, rich=True)
    bundle = Bundle.open(write_small_bundle(tmp_path, dataset))
    assert bundle.schema == dataset.schema
    for side in ("item", "user"):
        found, expected = bundle.multi_codes(side), dataset.multi_codes(side)
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[name], expected[name]) for name in found)
        np.testing.assert_array_equal(bundle.numeric(side), dataset.numeric(side))
        np.testing.assert_array_equal(bundle.feature_codes(side), dataset.feature_codes(side))


def test_contexts(tmp_path: Path) -> None:
    scorer = Scorer.load(write_small_bundle(tmp_path, write_tiny_dataset(tmp_path, rich=True)))
    assert scorer.context_names == ("device", "hour")
    contexts = [{"hour": 19, "device": "desk"}, {}, {"device": "watch"}, {"hour": "7"}]
    assert scorer.context_codes(contexts).tolist() == [[1, 2], [0, 0], [0, 0], [0, 1]]
    scored = scorer.candidates("u3", ["i1", "i2"], context={"device": "watch", "hour": 19})
    assert scored.unknown.context == ("device",)
    assert np.isfinite(scored.score_N).all()
    one_by_one = scorer.score(["u3"] * 4, ["i1"] * 4, contexts=contexts)
    for context, score in zip(contexts, one_by_one, strict=True):
        ranked = scorer.rank("u3", 1, ["i1"], context=context)
        np.testing.assert_allclose(ranked.score_N[0], score, rtol=0, atol=1e-6)
    with pytest.raises(InputError, match="names 'devise'; the model's contexts are: device, hour"):
        scorer.score(["u3"], ["i1"], contexts=[{"devise": "tv"}])


def test_no_contexts(scorer: Scorer) -> None:
    assert scorer.context_names == ()
    with pytest.raises(InputError, match="the model's contexts are: none"):
        scorer.candidates("u3", ["i1"], context={"device": "tv"})


def test_unknown_ids_are_scored_and_named(scorer: Scorer) -> None:
    scored = scorer.candidates("nobody", ["i1", "nothing", 7])
    assert np.isfinite(scored.score_N).all()
    assert scored.unknown.user_ids == ("nobody",)
    assert scored.unknown.item_ids == ("nothing", 7)
    assert scorer.candidates("u1", ["i1"]).unknown.user_ids == ()


def test_integers_mean_their_text(workspace: Path, tiny_dataset: Dataset) -> None:
    for side in ("users", "items"):
        path = tiny_dataset.path / f"{side}.parquet"
        table = pq.read_table(path)
        digits = pc.utf8_slice_codeunits(table["id"], 1)
        pq.write_table(table.set_column(0, "id", pa.chunked_array(digits)), path)
    scorer = Scorer.load(write_small_bundle(workspace, tiny_dataset))
    np.testing.assert_array_equal(
        scorer.score([1, 2], [3, 4]), scorer.score(["1", "2"], ["3", "4"])
    )
    assert scorer.candidates(1, [3]).unknown.item_ids == ()


def test_ranks_best_first(scorer: Scorer) -> None:
    items = [f"i{n}" for n in range(1, 41)]
    scores = dict(zip(items, scorer.candidates("u3", items).score_N.tolist(), strict=True))
    ranked = scorer.rank("u3", 5)
    assert list(ranked.item_ids) == sorted(items, key=lambda item: -scores[item])[:5]
    assert len(scorer.rank("u3", 100).item_ids) == 40
    assert len(scorer.rank("u3", 5, ["i2", "i1"]).item_ids) == 2


def test_no_rows_no_scores(scorer: Scorer) -> None:
    assert scorer.score([], []).shape == (0,)


@pytest.mark.bad_input
def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="nowhere: no such bundle"):
        Scorer.load(tmp_path / "nowhere")


@pytest.mark.bad_input
def test_half_written_bundle(bundle: Path) -> None:
    (bundle / "bundle.json").unlink()
    with pytest.raises(ArtifactError, match="half-written"):
        Scorer.load(bundle)


@pytest.mark.bad_input
def test_cut_file(bundle: Path) -> None:
    weights = bundle / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(ArtifactError, match=r"weights\.safetensors has \d+ of \d+ bytes"):
        Scorer.load(bundle)


def test_deleted_bundle_is_still_scored(bundle: Path, scorer: Scorer) -> None:
    before = scorer.score(["u1"], ["i1"])
    shutil.rmtree(bundle)
    np.testing.assert_array_equal(scorer.score(["u1"], ["i1"]), before)


@pytest.mark.bad_input
def test_vectors_of_another_table(bundle: Path) -> None:
    path = bundle / "item.npy"
    vectors = np.load(path)
    np.save(path, vectors.reshape(vectors.shape[0], -1, 1))
    with pytest.raises(ArtifactError, match=r"item\.npy has (shape|\d+ of \d+ bytes)"):
        Scorer.load(bundle)


@pytest.mark.bad_input
def test_missing_file(bundle: Path) -> None:
    (bundle / "item.npy").unlink()
    with pytest.raises(ArtifactError, match=r"item\.npy is missing"):
        Scorer.load(bundle)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "damaged"),
        ("[]", "not of format"),
        ('{"format": "other"}', "not of format"),
        ('{"format": "lorecast-bundle/1", "files": {}}', "damaged"),
    ],
)
def test_foreign_card(bundle: Path, content: str, message: str) -> None:
    (bundle / "bundle.json").write_text(content)
    with pytest.raises(ArtifactError, match=message):
        Scorer.load(bundle)


@pytest.mark.bad_input
def test_files_of_another_model(bundle: Path) -> None:
    path = bundle / "bundle.json"
    card = json.loads(path.read_text())
    card["model"]["config"]["embedding_dim"] = 8
    path.write_text(json.dumps(card))
    with pytest.raises(ArtifactError, match="do not belong together"):
        Scorer.load(bundle)


def test_needs_no_cluster_and_no_registry(bundle: Path) -> None:
    code = (
        "import sys\n"
        "for name in ('ray', 'mlflow', 'vllm', 'transformers'): sys.modules[name] = None\n"
        "import lorecast\n"
        "print(lorecast.load(sys.argv[1]).score(['u1'], ['i1']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(bundle)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_mlflow_scores_the_same(mlflow_registry: MLflowRegistry, tmp_path: Path) -> None:
    import mlflow

    bundle = write_small_bundle(tmp_path, write_tiny_dataset(tmp_path, rich=True))
    scorer = Scorer.load(bundle)
    run = RunRecord(name="pyfunc", params={}, metrics={}, curves=[], tags={}, plots=[])
    enrol(mlflow_registry, "pyfunc", bundle, run, "print-1")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(mlflow_registry.tracking_uri)
    try:
        model = mlflow.pyfunc.load_model("models:/pyfunc@champion")
    finally:
        mlflow.set_tracking_uri(before)
    rows = pd.DataFrame({"user_id": ["u1", "u2"], "item_id": ["i1", "i2"]})
    plain = scorer.score(["u1", "u2"], ["i1", "i2"])
    np.testing.assert_array_equal(model.predict(rows), plain)
    there = scorer.score(["u1", "u2"], ["i1", "i2"], contexts=[{"device": "phone"}, {}])
    assert there[0] != plain[0]
    np.testing.assert_array_equal(model.predict(rows.assign(device=["phone", None])), there)


def test_several_users_at_once(scorer: Scorer) -> None:
    queries = [
        Query("u3", ["i1", "i2", "nothing"]),
        Query("nobody", ["i4"], [("i2", 4), ("lost", 1)]),
        Query("u5", ["i9", "i1"], []),
        Query("u5", []),
    ]
    for query, together in zip(queries, scorer.answer(queries), strict=True):
        alone = scorer.candidates(*query)
        np.testing.assert_allclose(together.score_N, alone.score_N, atol=1e-6)
        assert together.unknown == alone.unknown
        assert together.item_ids == query.item_ids
