"""Overlap and near copies agree with what a loop over all pairs says."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from lorecast.knowledge.overlap import NEAR, TextSets, fold, near_clusters, pairs_within


def shingles(text: str) -> set[tuple[str, str]]:
    words = ["", *text.split(), ""]
    return set(pairwise(words))


def jaccard(left: set, right: set) -> float:
    return len(left & right) / len(left | right) if left | right else 0.0


def all_pairs_clusters(texts: list[str]) -> list[int]:
    """Connected components of the near copies, each named by its first text."""
    label = list(range(len(texts)))
    for j in range(len(texts)):
        for i in range(j):
            if jaccard(shingles(texts[i]), shingles(texts[j])) >= NEAR:
                low, high = sorted((label[i], label[j]))
                label = [low if name == high else name for name in label]
    return label


def as_partition(labels) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(np.asarray(labels) == name).tolist()) for name in set(labels)}


def corrupted(words: list[str], num: int, rng: np.random.Generator) -> list[str]:
    words = list(words)
    for place in rng.choice(len(words), num, replace=False):
        words[place] = f"other{rng.integers(10_000)}"
    return words


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("  Slow,\nquiet -- film!", "slow quiet film"),
        ("Ärger & Öl", "ärger öl"),
        ("慢电影", "慢 电 影"),
        ("?!", ""),
    ],
)
def test_folding_keeps_words_only(text: str, folded: str) -> None:
    assert fold(pa.array([text])).to_pylist() == [folded]


def test_jaccard_is_that_of_sets(rng: np.random.Generator) -> None:
    texts = [
        "",
        "",
        *(" ".join(rng.choice(list("abcdefgh"), rng.integers(1, 9))) for _ in range(60)),
    ]
    left, right = rng.integers(len(texts), size=(2, 500))
    for sets, as_set in (
        (TextSets.words(pa.array(texts)), lambda text: set(text.split())),
        (TextSets.word_pairs(pa.array(texts)), shingles),
    ):
        expected = [
            jaccard(as_set(texts[i]), as_set(texts[j])) for i, j in zip(left, right, strict=True)
        ]
        np.testing.assert_allclose(sets.jaccard(left, right), expected)


def test_near_copies_are_those_of_all_pairs(rng: np.random.Generator) -> None:
    vocabulary = [f"w{n}" for n in range(60)]
    texts = []
    for _ in range(60):
        words = list(rng.choice(vocabulary, rng.integers(1, 40)))
        texts.append(" ".join(words))
        texts += [
            " ".join(corrupted(words, min(num, len(words)), rng)) for num in rng.integers(1, 8, 3)
        ]
    texts = list(dict.fromkeys(texts))
    found, expected = near_clusters(pa.array(texts)), all_pairs_clusters(texts)
    assert as_partition(found) == as_partition(expected)
    sizes = sorted(map(len, as_partition(found)))
    assert sizes[0] == 1
    assert sizes[-1] > 2, "the example holds both lone texts and clusters"


def test_one_template_is_one_cluster_however_many_follow_it() -> None:
    template = " ".join(f"w{n}" for n in range(30))
    texts = pa.array([f"film{n} {template}" for n in range(500)])
    assert len(set(near_clusters(texts))) == 1


def test_short_facts_that_differ_in_a_word_are_no_copies() -> None:
    texts = pa.array([f"the film has a {mood} mood" for mood in ("gloomy", "tender", "eerie")])
    assert len(set(near_clusters(texts))) == 3


def test_pairs_stay_in_their_group() -> None:
    group = np.array([0, 0, 0, 2, 2, 5])
    pairs = {
        (int(i), int(j))
        for left, right in pairs_within(group)
        for i, j in zip(left, right, strict=True)
    }
    assert pairs == {(0, 1), (0, 2), (1, 2), (3, 4)}
    assert len(list(pairs_within(group, reach=1))) == 1


def test_nothing_is_no_trouble() -> None:
    empty = pa.array([], pa.string())
    assert near_clusters(empty).size == 0
    assert TextSets.words(empty).sizes.size == 0
