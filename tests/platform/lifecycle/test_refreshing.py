"""Bundles that grow, against what prepare and write_bundle make of the whole."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from lorecast.config import Side
from lorecast.data.coding import Coding
from lorecast.data.dataset import Dataset
from lorecast.data.entities import Entities
from lorecast.data.growth import Joined, join, with_clicks
from lorecast.data.histories import Timelines, timelines
from lorecast.errors import ArtifactError
from lorecast.lifecycle.bundle import Bundle, BundleVectors, write_bundle
from lorecast.lifecycle.check_rows import largest_difference
from lorecast.lifecycle.refreshing import NewKnowledge, check_refreshed, write_refreshed
from lorecast.lifecycle.scorer import Scorer
from lorecast.lifecycle.texts import SCHEMA, read_texts
from tests.small_bundle import (
    CHUNKS,
    DIM,
    make_model,
    write_knowledge,
    write_small_bundle,
    write_trained,
    write_vectors,
)

NEW = ["i90", "i91"]


def _items(ids: list[str], genres: list[str | None], titles: list[str] | None = None) -> Entities:
    genre = pa.array(genres, pa.string())
    return Entities(
        ids=pa.array(ids),
        titles=pa.array(titles or [f"Film {id_}" for id_ in ids]),
        texts={"genre": genre},
        features={"genre": genre},
    )


def _clicks(users: list[int], items: list[int], ratings: list[int], start: int) -> Timelines:
    count = len(users)
    return timelines(
        rank_N=np.array(users, np.int64),
        order_N=start + np.arange(count),
        user_row_N=np.array(users, np.int32),
        item_row_N=np.array(items, np.int32),
        rating_N=np.array(ratings, np.int8),
        label_N=np.ones(count, np.int8),
        timestamp_N=start + np.arange(count),
        part_N=np.zeros(count, np.int8),
    )


def _joined(bundle: Bundle, dataset: Dataset, side: Side, entities: Entities) -> Joined:
    described = dataset.items() if side == "item" else dataset.users()
    return join(bundle.entities(side), described, entities, Coding.of(dataset, side), side)


def _knowledge(
    rows: dict[Side, NDArray[np.int32]], values: dict[Side, NDArray[np.float16]] | None = None
) -> NewKnowledge:
    """Vectors of 1 / 16 unless given; all texts are there."""
    sizes = {side: (len(row_G) + 1, len(CHUNKS[side])) for side, row_G in rows.items()}
    vectors = {
        side: np.full((*size, DIM), 1 / DIM, np.float16) if values is None else values[side]
        for side, size in sizes.items()
    }
    masks = {side: np.ones(size, bool) for side, size in sizes.items()}
    lines = [
        {"side": side, "row": row, "place": 0, "share": 1.0, "text": f"new text of {side} {row}"}
        for side, row_G in rows.items()
        for row in row_G
    ]
    return NewKnowledge(
        rows=rows,
        vectors=BundleVectors(vectors, masks, {}),
        history_end_G=np.full(len(rows["user"]), 7, np.int32),
        texts=pa.Table.from_pylist(lines, SCHEMA),
        fingerprint="new",
    )


def _rows(*rows: int) -> NDArray[np.int32]:
    return np.array(rows, np.int32)


def _write(
    folder: Path,
    bundle: Bundle,
    items: Joined,
    users: Joined,
    lines: Timelines | None = None,
    knowledge: NewKnowledge | None = None,
) -> Scorer:
    table = users.table if lines is None else with_clicks(users.table, lines)
    new_users = users.row_G[users.is_new_G]
    write_refreshed(
        folder,
        bundle,
        {"item": items.table, "user": table},
        knowledge or _knowledge({"item": items.row_G, "user": new_users}),
        changed_items=items.row_G[~items.is_new_G],
        origin={"rows": "abc", "from": "films/1"},
    )
    return Scorer.load(folder)


@pytest.fixture
def workspace(tiny_dataset: Dataset) -> Path:
    return tiny_dataset.path.parents[1]


@pytest.mark.parametrize("prestore", [False, True])
def test_what_is_known_scores_as_before_and_what_is_new_is_known(
    workspace: Path, tiny_dataset: Dataset, prestore: bool
) -> None:
    dataset = tiny_dataset
    vectors = write_vectors(workspace, dataset)
    trained = write_trained(workspace, make_model(dataset, vectors), dataset, vectors)
    texts = write_knowledge(workspace, dataset)
    write_bundle(
        workspace / "bundle", trained, dataset, vectors, prestore=prestore, knowledge=texts
    )
    before = Scorer.load(workspace / "bundle")
    bundle = Bundle.open(workspace / "bundle")
    items = _joined(bundle, dataset, "item", _items(NEW, ["Drama", "unheard of"]))
    users = _joined(bundle, dataset, "user", Entities(ids=pa.array(["new"])))
    new_user = bundle.num_users + 1
    lines = _clicks([4, new_user], [bundle.num_items + 1, 3], [5, 1], 2_000_000_000)
    after = _write(workspace / "grown", bundle, items, users, lines)

    assert after.bundle.num_items == 42
    assert after.bundle.num_users == 31
    quiet = np.setdiff1d(np.arange(1, 31, dtype=np.int32), [4])
    known = np.arange(1, 41, dtype=np.int32)
    assert check_refreshed(before, after, {"user": quiet, "item": known}) == 0.0
    scored = after.candidates("new", ["i90", "i91", "i1", "never"])
    assert scored.unknown.user_ids == ()
    assert scored.unknown.item_ids == ("never",)
    assert scored.score_N[0] != scored.score_N[3], "its genre and texts count"
    assert scored.score_N[1] != scored.score_N[3], "its texts count"
    assert before.score(["u4"], ["i1"]) != after.score(["u4"], ["i1"]), "the history is longer"
    assert largest_difference(after) == largest_difference(before)

    grown = Bundle.open(workspace / "grown")
    history_end = grown.history_end()
    assert history_end is not None
    assert history_end[new_user] == 7
    assert np.array_equal(history_end[:new_user], bundle.history_end())
    assert grown.fingerprints == {**bundle.fingerprints, "knowledge": "new"}
    assert grown.refreshed == ({"rows": "abc", "from": "films/1", "changed_items": []},)
    read = read_texts(grown.path, "item", 41)
    assert read is not None
    assert [text.text for text in read] == ["new text of item 41"]
    assert read_texts(grown.path, "item", 7) == read_texts(bundle.path, "item", 7)


def test_prestored_and_stored_vectors_give_new_entities_the_same_scores(
    workspace: Path, tiny_dataset: Dataset
) -> None:
    dataset = tiny_dataset
    vectors = write_vectors(workspace, dataset)
    trained = write_trained(workspace, make_model(dataset, vectors), dataset, vectors)
    rng = np.random.default_rng(3)
    values: dict[Side, NDArray[np.float16]] = {
        side: rng.normal(size=(count, len(CHUNKS[side]), DIM)).astype(np.float16)
        for side, count in (("item", 3), ("user", 1))
    }
    scores = []
    for prestore in (False, True):
        folder = workspace / f"bundle-{prestore}"
        write_bundle(folder, trained, dataset, vectors, prestore=prestore)
        bundle = Bundle.open(folder)
        items = _joined(bundle, dataset, "item", _items(NEW, ["Drama", "Western"]))
        knowledge = _knowledge({"item": items.row_G, "user": _rows()}, values)
        users = Joined.nobody(bundle.entities("user"))
        grown = _write(workspace / f"grown-{prestore}", bundle, items, users, None, knowledge)
        scores.append(grown.score(["u3", "u3", "u9"], ["i90", "i91", "i90"]))
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-6)


def test_a_new_item_scores_as_the_same_item_without_its_id(
    workspace: Path, tiny_dataset: Dataset
) -> None:
    """What it has of its own is all that counts: a copy of item 7 with item 7's texts, in the
    features of a model whose embedding of item 7's id is the unknown one's."""
    dataset, vectors = tiny_dataset, write_vectors(workspace, tiny_dataset)
    model = make_model(dataset, vectors)
    with_no_id = model.features.table.weight.data
    with_no_id[7] = 0  # items' ids come first in the table
    trained = write_trained(workspace, model, dataset, vectors)
    write_bundle(workspace / "bundle", trained, dataset, vectors)
    bundle = Bundle.open(workspace / "bundle")
    genre = dataset.items()["genre"][6].as_py()
    items = _joined(bundle, dataset, "item", _items(["i90"], [genre]))
    row_7 = vectors.vectors("item")[[0, 7]]
    knowledge = _knowledge(
        {"item": items.row_G, "user": _rows()},
        {"item": row_7, "user": vectors.vectors("user")[[0]]},
    )
    knowledge.vectors.mask("item")[1] = vectors.mask("item")[7]
    users = Joined.nobody(bundle.entities("user"))
    after = _write(workspace / "grown", bundle, items, users, None, knowledge)
    ids = [f"u{n}" for n in range(1, 31)]
    np.testing.assert_array_equal(after.score(ids, ["i90"] * 30), after.score(ids, ["i7"] * 30))
    histories = [[("i7", 4.0), ("i2", 1.0)], [("i90", 4.0), ("i2", 1.0)]]
    told = after.score(["u1", "u1"], ["i3", "i3"], histories)
    assert told[0] == told[1]


def test_a_second_refresh_goes_on_from_the_first(workspace: Path, tiny_dataset: Dataset) -> None:
    folder = write_small_bundle(workspace, tiny_dataset, texts=True)
    for number, id_ in enumerate(NEW, start=1):
        bundle = Bundle.open(folder)
        items = _joined(bundle, tiny_dataset, "item", _items([id_], ["Drama"]))
        users = Joined.nobody(bundle.entities("user"))
        folder = workspace / f"grown-{number}"
        _write(folder, bundle, items, users)
    scorer = Scorer.load(folder)
    assert scorer.candidates("u1", [*NEW, "i1"]).unknown.item_ids == ()
    assert len(Bundle.open(folder).refreshed) == 2
    assert scorer.rows("item", NEW).tolist() == [41, 42]


def test_a_changed_item_is_replaced_and_its_check_rows_go(
    workspace: Path, tiny_dataset: Dataset
) -> None:
    folder = write_small_bundle(workspace, tiny_dataset, texts=True)
    bundle = Bundle.open(folder)
    changed = _items(["i7", "i8"], ["Drama", "Western"], ["Another title", "Film 8"])
    items = _joined(bundle, tiny_dataset, "item", changed)
    assert items.row_G[0] == 7
    users = Joined.nobody(bundle.entities("user"))
    after = _write(workspace / "grown", bundle, items, users)
    assert after.bundle.names("item", _rows(7))[0][1] == "Another title"
    read = read_texts(workspace / "grown", "item", 7)
    assert read is not None
    assert [text.text for text in read] == ["new text of item 7"]
    stored, kept = (
        json.loads((path / "check.json").read_text()) for path in (folder, workspace / "grown")
    )
    assert "i7" in str(stored)
    assert "'i7'" not in str(kept)
    assert len(kept["scores"]) < len(stored["scores"])
    assert (largest_difference(after) or 0) < 1e-6
    (entry,) = Bundle.open(workspace / "grown").refreshed
    assert entry["changed_items"] == items.row_G.tolist()


def test_the_dataset_does_not_describe_what_changed_since(
    workspace: Path, tiny_dataset: Dataset
) -> None:
    described = tiny_dataset.items()
    genres = described["genre"].to_pylist()
    same = _items(["i7", "i9"], [genres[6], genres[8]], ["Film 7", "Film 9"])
    bundle = Bundle.open(write_small_bundle(workspace, tiny_dataset))
    base, coding = bundle.entities("item"), Coding.of(tiny_dataset, "item")
    assert join(base, described, same, coding, "item").row_G.size == 0
    assert join(base, described, same, coding, "item", [7]).row_G.tolist() == [7]


def test_a_bare_backbone_grows_without_knowledge(workspace: Path, tiny_dataset: Dataset) -> None:
    folder = write_small_bundle(workspace, tiny_dataset, knowledge=False)
    bundle = Bundle.open(folder)
    items = _joined(bundle, tiny_dataset, "item", _items(NEW, ["Drama", None]))
    write_refreshed(
        workspace / "grown",
        bundle,
        {"item": items.table, "user": bundle.entities("user")},
        None,
        changed_items=_rows(),
        origin={"rows": "abc", "from": "films/1"},
    )
    after = Scorer.load(workspace / "grown")
    scores = after.score(["u1"] * 3, ["i90", "i91", "never"])
    assert scores[0] != scores[2]
    assert scores[1] == scores[2], "nothing is known of it but that it is there"


def test_a_score_that_moves_is_refused(workspace: Path, tiny_dataset: Dataset) -> None:
    folder = write_small_bundle(workspace, tiny_dataset)
    bundle = Bundle.open(folder)
    items = Joined.nobody(bundle.entities("item"))
    users = Joined.nobody(bundle.entities("user"))
    after = _write(workspace / "grown", bundle, items, users, _clicks([4], [2], [5], 2_000_000_000))
    rows = {"user": _rows(3, 4), "item": np.arange(1, 41, dtype=np.int32)}
    with pytest.raises(ArtifactError, match="cannot be refreshed"):
        check_refreshed(Scorer.load(folder), after, rows)
