"""The real encoder: installed, unit vectors, meaning kept, order and batch without influence."""

import numpy as np
import pytest

from lorecast.config import EncodingConfig
from lorecast.encoding.encoder import (
    Encoder,
    HashEncoder,
    SentenceTransformerEncoder,
    find_encoder,
)

TEXTS = [
    "The film is about revenge.",
    "A film of vengeance.",
    "It is told at a slow pace. " * 40,
    "Cats sleep.",
]


def load(**encoding: object) -> SentenceTransformerEncoder:
    config = EncodingConfig(**encoding)
    return SentenceTransformerEncoder(find_encoder(config.model), config)


@pytest.fixture(scope="module")
def real() -> SentenceTransformerEncoder:
    return load()


@pytest.fixture(params=["real", "twin"])
def encoder(request: pytest.FixtureRequest) -> Encoder:
    return request.getfixturevalue("real") if request.param == "real" else HashEncoder()


def test_vectors_are_float16_of_length_one(encoder: Encoder) -> None:
    vectors = encoder.encode(TEXTS)
    assert vectors.dtype == np.float16
    np.testing.assert_allclose(np.linalg.norm(vectors.astype(float), axis=1), 1, atol=1e-3)


def test_order_and_company_do_not_matter(encoder: Encoder) -> None:
    vectors = encoder.encode(TEXTS).astype(float)
    np.testing.assert_allclose(encoder.encode(TEXTS[::-1]).astype(float)[::-1], vectors, atol=2e-3)
    np.testing.assert_allclose(encoder.encode(TEXTS[:1]).astype(float)[0], vectors[0], atol=2e-3)


def test_similar_texts_are_near(real: SentenceTransformerEncoder) -> None:
    first, second, _, other = real.encode(TEXTS).astype(float)
    assert first @ second > 0.5 > 0.3 > first @ other


def test_bfloat16_agrees(real: SentenceTransformerEncoder) -> None:
    fast = load(dtype="bfloat16").encode(TEXTS).astype(float)
    exact = real.encode(TEXTS).astype(float)
    assert (fast * exact).sum(axis=1).min() > 0.999


def test_texts_are_cut_at_max_tokens() -> None:
    short = load(max_tokens=8)
    long, cut = short.encode(
        ["one two three four five six seven eight nine", "one two three four five six"]
    )
    np.testing.assert_allclose(long.astype(float), cut.astype(float), atol=2e-3)


def test_digest_follows_the_model() -> None:
    assert find_encoder("all-MiniLM-L6-v2").is_local
    assert find_encoder("some/model").digest != find_encoder("other/model").digest
