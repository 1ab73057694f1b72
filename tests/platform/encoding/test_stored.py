"""Stored vectors: found by text, whole or not at all, of one encoder only."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from lorecast.config import EncodingConfig
from lorecast.encoding.encoder import EncoderModel, HashEncoder
from lorecast.encoding.stored import VectorStore, text_keys
from lorecast.errors import EncodingError

MODEL = EncoderModel(source="a", digest="aa")


def append(store: VectorStore, *texts: str) -> None:
    store.append(text_keys(pa.array(texts)), HashEncoder().encode(texts))


def found(store: VectorStore, *texts: str) -> dict[str, NDArray[np.float16]]:
    """What the store says about texts, read as an encoding reads it."""
    sorted_texts = store.sort(pa.array(texts, pa.string()))
    np.testing.assert_array_equal(
        sorted_texts.texts.take(pa.array(sorted_texts.place_S)).to_pylist(), texts
    )
    np.testing.assert_array_equal(sorted_texts.key_S2, text_keys(sorted_texts.texts))
    vectors, stop = {}, 0
    for place_M, vector_MD in sorted_texts.stored():
        assert place_M.tolist() == list(range(stop, stop + len(vector_MD)))
        stop += len(vector_MD)
        vectors |= dict(zip(sorted_texts.texts.take(place_M).to_pylist(), vector_MD, strict=True))
    assert stop == sorted_texts.num_stored
    return vectors


@pytest.fixture
def store(tmp_path: Path) -> VectorStore:
    return VectorStore(tmp_path / "vectors")


def test_an_absent_store_holds_nothing(store: VectorStore) -> None:
    assert found(store, "gloomy", "tender") == {}
    assert found(store) == {}


def test_texts_are_found_whatever_their_order_and_part(store: VectorStore) -> None:
    append(store, "gloomy", "tender", "eerie")
    append(store, "märchenhaft", "", "slow")
    wanted = ("new", "slow", "eerie", "märchenhaft", "newer", "gloomy", "")
    vectors = found(store, *wanted)
    assert set(vectors) == set(wanted) - {"new", "newer"}
    for text, vector in vectors.items():
        np.testing.assert_array_equal(vector, HashEncoder().encode([text])[0])


def test_a_text_stored_twice_is_found_once(store: VectorStore) -> None:
    append(store, "gloomy", "tender")
    append(store, "eerie", "gloomy")
    append(store, "eerie", "gloomy")
    assert len(list(store.folder.iterdir())) == 2
    assert set(found(store, "gloomy", "eerie")) == {"gloomy", "eerie"}


def test_a_part_in_the_making_does_not_count(store: VectorStore) -> None:
    append(store, "gloomy")
    (store.folder / ".part-00.parquet.1.partial").write_bytes(b"PAR1")
    assert set(found(store, "gloomy", "eerie")) == {"gloomy"}


def test_what_changes_a_vector_changes_the_store(tmp_path: Path) -> None:
    usual = EncodingConfig()

    def folder(model: EncoderModel = MODEL, **settings: object) -> Path:
        return VectorStore.of(tmp_path, model, usual.model_copy(update=settings)).folder

    assert folder(where={"words": (2, None)}) == folder(components=8) == folder()
    others = {
        folder(EncoderModel(source="a", digest="bb")),
        folder(max_tokens=32),
        folder(dtype="bfloat16"),
    }
    assert len(others | {folder()}) == 4


@pytest.mark.bad_input
@pytest.mark.parametrize("harm", ["cut", "flipped"])
def test_a_damaged_part_is_named(store: VectorStore, harm: str) -> None:
    append(store, "gloomy", "tender")
    (part,) = store.folder.iterdir()
    content = bytearray(part.read_bytes())
    vector = HashEncoder().encode(["tender"]).tobytes()
    content[content.index(vector) + 3] ^= 1
    part.write_bytes(content if harm == "flipped" else content[:-20])
    with pytest.raises(EncodingError, match=rf"{part.name} is damaged; delete it and run again"):
        found(store, "tender")


@pytest.mark.bad_input
def test_a_store_that_cannot_grow_is_said(store: VectorStore) -> None:
    store.folder.write_text("in the way")
    with pytest.raises(EncodingError, match="cannot take more vectors"):
        append(store, "gloomy")
