"""The gate on real bundles: the same rows for both, and what gives a leak away."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lorecast.artifacts import MANIFEST
from lorecast.config import PromotionConfig
from lorecast.data.batches import load_samples
from lorecast.data.dataset import Dataset
from lorecast.data.layout import samples_folder
from lorecast.errors import PromotionError
from lorecast.evaluation.metrics import auc, gauc, log_loss
from lorecast.knowledge.leakage import UNKNOWN_END
from lorecast.lifecycle.bundle import write_bundle
from lorecast.lifecycle.check_rows import largest_difference
from lorecast.lifecycle.frozen import FrozenSlice
from lorecast.lifecycle.gate import STEPS, Contender, examine
from lorecast.lifecycle.inputs import inputs_of, scores_without
from lorecast.lifecycle.leaks import leaks
from lorecast.lifecycle.policy import decide
from lorecast.lifecycle.scorer import Scorer
from lorecast.models.inputs import Batch
from lorecast.training.loop import predict
from tests.small_bundle import (
    make_model,
    write_small_bundle,
    write_trained,
    write_vectors,
)
from tests.tiny_dataset import write_tiny_dataset
from tests.tiny_training import train_tiny

POLICY = PromotionConfig(resamples=100, latency_rounds=5, latency_items=10)


@pytest.fixture
def workspace(tiny_dataset: Dataset) -> Path:
    return tiny_dataset.path.parents[1]


@pytest.fixture
def frozen(tiny_dataset: Dataset) -> FrozenSlice:
    return FrozenSlice.of(tiny_dataset, POLICY)


@pytest.fixture
def scorer(workspace: Path, tiny_dataset: Dataset) -> Scorer:
    return Scorer.load(write_small_bundle(workspace, tiny_dataset))


def test_the_slice_is_frozen_and_of_whole_users(tiny_dataset: Dataset) -> None:
    whole = FrozenSlice.of(tiny_dataset, POLICY)
    valid = load_samples(tiny_dataset, "valid")
    np.testing.assert_array_equal(whole.samples.position_B, valid.position_B)
    part = FrozenSlice.of(tiny_dataset, PromotionConfig(rows=len(valid) // 2))
    assert 0 < len(part) <= len(valid) // 2
    again = FrozenSlice.of(tiny_dataset, PromotionConfig(rows=len(valid) // 2, seed=5))
    assert again.fingerprint == part.fingerprint != whole.fingerprint
    taken = np.isin(valid.user_row_B, part.samples.user_row_B)
    assert taken.sum() == len(part), "no user is cut in two"
    assert len(FrozenSlice.of(tiny_dataset, PromotionConfig(rows=1))) > 1, "one user at least"


def test_rows_as_requests_score_as_in_training(
    make_tiny_dataset: Callable[..., Dataset],
) -> None:
    dataset = make_tiny_dataset(rich=True)
    workspace = dataset.path.parents[1]
    scorer = Scorer.load(write_small_bundle(workspace, dataset))
    frozen = FrozenSlice.of(dataset, POLICY)
    model = make_model(dataset, write_vectors(workspace, dataset))
    expected = predict(model, Batch.of(frozen.samples))
    np.testing.assert_allclose(frozen.requests.scores(scorer), expected, rtol=0, atol=1e-6)
    assert np.ptp(expected) > 1e-3


def test_check_rows_tell_another_model(scorer: Scorer, tiny_dataset: Dataset) -> None:
    found = largest_difference(scorer)
    assert found is not None
    assert found < 1e-6
    path = scorer.bundle.path / "check.json"
    other = json.loads(path.read_text()) | {"scores": [0.0] * 64}
    path.write_text(json.dumps({key: values[:64] for key, values in other.items()}))
    assert (largest_difference(scorer) or 0) > 0.1
    path.unlink()
    assert largest_difference(scorer) is None


def test_figures_are_those_of_the_scores(
    workspace: Path, tiny_dataset: Dataset, frozen: FrozenSlice, scorer: Scorer
) -> None:
    other = tiny_dataset.path.parents[1] / "other"
    shutil.copytree(scorer.bundle.path, other)
    steps = []
    contenders = [
        Contender("films/1", scorer, frozen),
        Contender("films/2", Scorer.load(other), frozen),
    ]
    evidence = examine(*contenders, POLICY, workspace, lambda: steps.append(1))
    assert len(steps) == STEPS
    score_B = frozen.requests.scores(scorer)
    samples = frozen.samples
    figures = evidence.figures
    assert figures["auc"].champion == pytest.approx(auc(samples.label_B, score_B))
    grouped = gauc(samples.user_row_B, samples.label_B, score_B)
    assert figures["gauc"].champion == pytest.approx(grouped)
    assert figures["log_loss"].champion == pytest.approx(log_loss(samples.label_B, score_B))
    for each in figures.values():
        assert (each.difference, each.low, each.high) == (0, 0, 0), "it is the same model"
    assert evidence.rows.rows == len(frozen)
    # Every fifth user lacks its only text; of two texts an item has one at least.
    assert evidence.coverage["item"] == 1.0
    users = [int(name[1:]) for name in frozen.ids("user")]
    assert evidence.coverage["user"] == pytest.approx(np.mean([n % 5 > 0 for n in users]))
    assert evidence.leaks == evidence.champion_leaks == ()
    assert decide(evidence, POLICY).failed[0].check == "better"


def test_one_class_is_said(workspace: Path, tiny_dataset: Dataset, scorer: Scorer) -> None:
    for part in samples_folder(tiny_dataset.path, "valid").glob("*.parquet"):
        table = pq.read_table(part)
        place = table.schema.get_field_index("label")
        ones = pa.array(np.ones(len(table), np.int8))
        pq.write_table(table.set_column(place, "label", ones), part)
    contender = Contender("films/1", scorer, FrozenSlice.of(tiny_dataset, POLICY))
    with pytest.raises(PromotionError, match="all clicks or all none"):
        examine(contender, contender, POLICY, workspace)


def test_hidden_inputs_are_hidden(make_tiny_dataset: Callable[..., Dataset]) -> None:
    dataset = make_tiny_dataset(rich=True)
    workspace = dataset.path.parents[1]
    vectors = write_vectors(workspace, dataset)
    trained = write_trained(workspace, make_model(dataset, vectors), dataset, vectors)
    requests = FrozenSlice.of(dataset, POLICY).requests
    found = {}
    for prestore in (False, True):
        folder = workspace / f"prestore-{prestore}"
        write_bundle(folder, trained, dataset, vectors, prestore=prestore)
        scorer = Scorer.load(folder)
        whole = requests.scores(scorer)
        for each in inputs_of(scorer.bundle):
            found[str(each), prestore] = scores_without(scorer, each, requests)
            assert np.abs(found[str(each), prestore] - whole).max() > 1e-6, each
    assert {name for name, _ in found} == {
        "context device",
        "context hour",
        "item feature genre",
        "item feature tags",
        "item feature price",
        "item feature length",
        "user feature hobbies",
        "user feature age",
        "item knowledge",
        "user knowledge",
    }
    for side in ("item", "user"):
        one, other = (found[f"{side} knowledge", prestore] for prestore in (False, True))
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


def test_a_model_of_this_dataset_leaks_nothing(
    workspace: Path, frozen: FrozenSlice, scorer: Scorer
) -> None:
    assert leaks(scorer.bundle, frozen, workspace) == ()


@pytest.mark.parametrize(
    ("end", "message"), [(10_000, "has seen samples"), (UNKNOWN_END, "does not say which")]
)
def test_texts_that_saw_the_rows(
    workspace: Path, frozen: FrozenSlice, scorer: Scorer, end: int, message: str
) -> None:
    path = scorer.bundle.path / "user_history_end.npy"
    np.save(path, np.full_like(np.load(path), end))
    [leak] = leaks(scorer.bundle, frozen, workspace)
    assert message in leak
    path.unlink()
    [leak] = leaks(scorer.bundle, frozen, workspace)
    assert "does not say how far" in leak


def test_a_model_trained_on_the_rows(
    workspace: Path, tiny_dataset: Dataset, frozen: FrozenSlice
) -> None:
    theirs = _another(tiny_dataset, "another")
    bundle = Scorer.load(write_small_bundle(workspace, theirs)).bundle
    assert leaks(bundle, frozen, workspace) == ()
    for part in samples_folder(theirs.path, "valid").glob("*.parquet"):
        part.rename(samples_folder(theirs.path, "train") / f"moved-{part.name}")
    [leak] = leaks(bundle, frozen, workspace)
    assert leak == f"{len(frozen):,} of {len(frozen):,} rows were in its training part"
    shutil.rmtree(theirs.path)
    [leak] = leaks(bundle, frozen, workspace)
    assert "nothing shows that it did not train on these rows" in leak


def test_texts_of_another_dataset_are_held_against_times(
    workspace: Path, tiny_dataset: Dataset, frozen: FrozenSlice
) -> None:
    theirs = _another(tiny_dataset, "another")
    bundle = Scorer.load(write_small_bundle(workspace, theirs)).bundle
    path = bundle.path / "user_history_end.npy"
    np.save(path, np.load(path) + 2)
    [leak] = leaks(bundle, frozen, workspace)
    users = len(np.unique(frozen.samples.user_row_B))
    assert f"may have seen {2 * users:,} of {len(frozen):,} rows" in leak


def test_an_input_that_nobody_declared(workspace: Path, frozen: FrozenSlice) -> None:
    rich = write_tiny_dataset(workspace, rich=True)
    bundle = Scorer.load(write_small_bundle(workspace, rich, knowledge=False)).bundle
    found = leaks(bundle, frozen, workspace)
    assert "it reads context device, which the experiment's dataset does not declare" in found


def test_an_input_that_gives_the_label_away(make_tiny_dataset: Callable[..., Dataset]) -> None:
    dataset = make_tiny_dataset(rich=True, num_users=60)
    workspace = dataset.path.parents[1]
    for part in dataset.path.glob("samples/*/*.parquet"):
        table = pq.read_table(part)
        place = table.schema.get_field_index("context:device")
        label = pa.array(1 + table["label"].to_numpy().astype(np.int32))
        pq.write_table(table.set_column(place, "context:device", label), part)
    frozen = FrozenSlice.of(dataset, POLICY)
    contenders = []
    for number, epochs in enumerate((1, 10), start=1):
        folder = workspace / f"bundle-{number}"
        write_bundle(folder, train_tiny(workspace, dataset, epochs=epochs), dataset, None)
        contenders.append(Contender(f"films/{number}", Scorer.load(folder), frozen))
    evidence = examine(*contenders, POLICY, workspace)
    assert evidence.figures["auc"].challenger > 0.99
    decision = decide(evidence, POLICY)
    assert "too good" in [finding.check for finding in decision.failed]
    assert "context device hidden" in decision.reason
    assert "genre hidden" not in decision.reason


def _another(dataset: Dataset, name: str) -> Dataset:
    """The same dataset under another fingerprint."""
    manifest = json.loads((dataset.path / MANIFEST).read_text())
    manifest["fingerprint"] = "0123456789abcdef"
    folder = dataset.path.with_name(f"{name}-01234567")
    shutil.copytree(dataset.path, folder)
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return Dataset.open(folder)
