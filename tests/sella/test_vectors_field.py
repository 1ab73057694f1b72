"""SeLLa's item vectors as knowledge of click models: one line of an experiment."""

from pathlib import Path

import numpy as np
import pytest

from lorecast.artifacts import Artifact, StageSpec, build
from lorecast.config import ExperimentConfig, load_config
from lorecast.data.dataset import Dataset
from lorecast.encoding import ready
from lorecast.encoding.encoder import HashEncoder
from lorecast.encoding.vectors import VectorsTable
from lorecast.errors import EncodingError, LeakageError
from lorecast.jobs import encode, generate, train
from lorecast.jobs.console import Console
from lorecast.sella.item_vectors import ItemVectors
from lorecast.sella.stages import write_vectors
from tests.sella.small_sella import write_sella
from tests.tiny_dataset import GENRES, write_tiny_dataset

WIDTH = 8
QUIET = Console(quiet=True)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return write_tiny_dataset(tmp_path, num_users=60)


@pytest.fixture
def made(tmp_path: Path, dataset: Dataset) -> Artifact:
    """Vectors as stage 2.1 writes them: genres, and noise; item 5 has no title."""
    return _write(tmp_path, dataset, {"dataset": dataset.fingerprint})


def _write(workspace: Path, dataset: Dataset, inputs: dict[str, str]) -> Artifact:
    rng = np.random.default_rng(0)
    genre = [GENRES.index(name) for name in dataset.items()["genre"].to_pylist()]
    state_RH = rng.normal(0, 2, (len(genre) + 1, WIDTH)).astype(np.float32)
    state_RH[1:, : len(GENRES)] += 30 * np.eye(len(GENRES))[genre]
    has_title_R = np.arange(len(state_RH)) % 5 > 0
    has_title_R[10:] = True
    state_RH[~has_title_R] = 0
    spec = StageSpec(stage="sella-vectors", name="tiny-s0", identity={}, inputs=inputs)
    with build(workspace, spec) as draft:
        write_vectors(draft.path, state_RH, has_title_R)
    return Artifact.open(spec.folder(workspace))


def _config(workspace: Path, made: Artifact, *overrides: str) -> ExperimentConfig:
    field = f"{{kind: vectors, name: sella, folder: {made.path}}}"
    words = ["name=tiny", f"compute.workspace={workspace}", "compute.threads=1"]
    return load_config(None, [*words, f"knowledge.fields=[{field}]", *overrides])


def _encoded(config: ExperimentConfig, dataset: Dataset) -> VectorsTable:
    knowledge = generate.run(config, dataset, QUIET)
    artifact = encode.run(config, dataset, knowledge, QUIET, make_encoder=HashEncoder)
    return VectorsTable.open(artifact.path)


def test_the_table_holds_them_by_row(tmp_path: Path, dataset: Dataset, made: Artifact) -> None:
    table = _encoded(_config(tmp_path, made), dataset)
    table.check(dataset)
    assert table.chunks("item") == (("sella", "vector"),)
    assert table.chunks("user") == ()
    source = ItemVectors.read(made.path, dataset)
    np.testing.assert_array_equal(table.mask("item")[:, 0], source.known_R)
    assert np.flatnonzero(~source.known_R).tolist() == [0, 5]
    vector_RD = np.asarray(table.vectors("item")[:, 0], np.float32)
    assert not vector_RD[~source.known_R].any()
    known = source.vector_RH[source.known_R]
    length = np.linalg.norm(known, axis=1).mean()
    np.testing.assert_allclose(vector_RD[source.known_R], known / length, atol=1e-3)


@pytest.mark.usefixtures("ray_cluster")
def test_a_click_model_trains_with_them(tmp_path: Path, dataset: Dataset, made: Artifact) -> None:
    config = _config(tmp_path, made, "model.embedding_dim=8", "training.epochs=2")
    vectors = _encoded(config, dataset)
    trained = train.run(config, dataset, vectors, "all_parameters", 0, QUIET)
    assert trained.facts["trained_parameters"] > 0
    assert 0.0 < trained.facts["metrics"]["test"]["auc"] < 1.0
    assert trained.manifest["inputs"]["vectors"] == Artifact.open(vectors.path).fingerprint


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("components", ["null", "4"])
def test_they_stand_beside_texts_in_the_texts_width(
    tmp_path: Path, dataset: Dataset, made: Artifact, components: str
) -> None:
    (tmp_path / "plots.csv").write_text(
        "id,text\n" + "\n".join(f"i{n},Plot number {n}." for n in range(1, 31)), encoding="utf-8"
    )
    plots = f"{{kind: import, name: plots, side: item, file: {tmp_path / 'plots.csv'}}}"
    field = f"{{kind: vectors, name: sella, folder: {made.path}}}"
    config = _config(
        tmp_path,
        made,
        f"knowledge.fields=[{plots}, {field}]",
        f"encoding.components={components}",
    )
    table = _encoded(config, dataset)
    dim = 32 if components == "null" else 4
    assert table.dim == dim
    assert [name.field for name in table.chunks("item")] == ["plots", "sella"]
    assert table.vectors("item").shape == (41, 2, dim)
    assert table.mask("item").sum(0).tolist() == [30, 39]
    lengths = np.linalg.norm(np.asarray(table.vectors("item")[1:, 1], np.float32), axis=1)
    assert lengths[lengths > 0].mean() == pytest.approx(1, abs=1e-2)


def test_other_vectors_are_other_knowledge_and_the_folder_is_not(
    tmp_path: Path, dataset: Dataset, made: Artifact
) -> None:
    first = _encoded(_config(tmp_path, made), dataset)
    link = tmp_path / "link"
    link.symlink_to(made.path)
    field = f"knowledge.fields=[{{kind: vectors, name: sella, folder: {link}}}]"
    assert _encoded(_config(tmp_path, made, field), dataset).path == first.path
    inputs = {"dataset": dataset.fingerprint, "tune": "another"}
    other = _write(tmp_path, dataset, inputs)
    assert _encoded(_config(tmp_path, other), dataset).path != first.path


def test_a_guide_gives_the_rows_behind_its_item_token(
    tmp_path: Path, dataset: Dataset, tiny_llm: Path
) -> None:
    guide, scored = write_sella(tmp_path, dataset, tiny_llm)
    found = ItemVectors.read(guide.path, dataset)
    assert found.vector_RH.shape == (dataset.schema.num_items + 1, 8)
    assert not found.known_R[0]
    with pytest.raises(EncodingError, match="output of `sella-score`"):
        ItemVectors.read(scored.path, dataset)
    text, _ = write_sella(tmp_path, dataset, tiny_llm, "text")
    with pytest.raises(EncodingError, match="no <Item_ID>"):
        ItemVectors.read(text.path, dataset)


@pytest.mark.bad_input
def test_vectors_that_may_have_seen_these_clicks_are_refused(
    tmp_path: Path, dataset: Dataset
) -> None:
    other = write_tiny_dataset(tmp_path / "other", num_users=60, seed=1)
    made = _write(tmp_path, dataset, {"dataset": other.fingerprint})
    with pytest.raises(LeakageError, match="same section `dataset`"):
        _encoded(_config(tmp_path, made), dataset)


def test_wider_vectors_keep_what_tells_items_apart() -> None:
    rng = np.random.default_rng(0)
    meaning = rng.normal(size=(50, 3))
    wide = (meaning @ rng.normal(size=(3, 40)) + 7).astype(np.float32)
    narrow = ready.fitted(wide, 6).astype(np.float32)

    def distances(vector_ND: np.ndarray) -> np.ndarray:
        distance_NN = np.linalg.norm(vector_ND[:, None] - vector_ND[None], axis=2)
        return distance_NN / distance_NN.mean()

    np.testing.assert_allclose(distances(narrow), distances(wide), atol=2e-2)
    assert narrow.shape == (50, 6)
