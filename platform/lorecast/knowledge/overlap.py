"""Texts as sets of words: folding, overlap of pairs, clusters of near copies. All vectorised."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Ints = NDArray[np.int64]

NEAR: Final = 0.7
"""Texts whose word pairs overlap by this much or more (Jaccard) are near copies."""

_UNSPACED: Final = r"([\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}])"
_PAIRS_AT_ONCE: Final = 200_000
_NEIGHBOURS: Final = 16


def fold(texts: pa.StringArray) -> pa.StringArray:
    """Lower-case words with single spaces: what is left when case and punctuation do not count.

    In scripts that are written without spaces each character is a word.
    """
    apart = pc.replace_substring_regex(texts, _UNSPACED, r" \1 ")
    plain = pc.replace_substring_regex(pc.utf8_lower(apart), r"[^\p{L}\p{M}\p{N}]+", " ")
    return pc.utf8_trim_whitespace(plain)


@dataclass(frozen=True)
class TextSets:
    """One set of codes for each text, ascending, one after the other."""

    members: Ints
    offsets: Ints
    """Text i has members[offsets[i] : offsets[i + 1]]."""

    @classmethod
    def words(cls, folded: pa.StringArray) -> "TextSets":
        """The distinct words of folded texts."""
        words, text, count = _words(folded)
        return cls._of(words, text, count.size)

    @classmethod
    def word_pairs(cls, folded: pa.StringArray) -> "TextSets":
        """The distinct pairs of neighbouring words, the ends of the text counting as a word."""
        words, text, count = _words(folded)
        num_words = int(words.max(initial=0)) + 2
        ends = np.arange(count.size)
        place = np.concatenate([[0], (count + 1).cumsum()])[:-1]
        # A text of n words has n + 1 pairs: slot i pairs word i - 1 with word i.
        slot = np.arange(words.size) + text
        left = np.zeros(words.size + count.size, np.int64)
        right = np.zeros_like(left)
        right[slot] = words + 1
        left[slot + 1] = words + 1
        left[place] = 0
        return cls._of(left * num_words + right, np.repeat(ends, count + 1), count.size)

    @classmethod
    def _of(cls, codes: Ints, text: Ints, num_texts: int) -> "TextSets":
        _, codes = np.unique(codes, return_inverse=True)
        num_codes = int(codes.max(initial=0)) + 1
        both = np.unique(text * num_codes + codes)
        text, members = np.divmod(both, num_codes)
        counts = np.bincount(text, minlength=num_texts)
        return cls(members, np.concatenate([[0], counts.cumsum()]))

    @property
    def sizes(self) -> Ints:
        return np.diff(self.offsets)

    def take(self, texts: Ints) -> tuple[Ints, Ints]:
        """The members of these texts, and for each the place of its text in `texts`."""
        sizes = self.sizes[texts]
        place = np.repeat(np.arange(texts.size), sizes)
        start = self.offsets[texts] - (sizes.cumsum() - sizes)
        return self.members[np.arange(place.size) + start[place]], place

    def jaccard(self, left: Ints, right: Ints) -> NDArray[np.float64]:
        """Overlap of text left[i] with text right[i]: shared over all members; 0 if both empty."""
        parts = [
            self._shared(
                left[start : start + _PAIRS_AT_ONCE], right[start : start + _PAIRS_AT_ONCE]
            )
            for start in range(0, left.size, _PAIRS_AT_ONCE)
        ]
        shared = np.concatenate([np.zeros(0), *parts])
        overlap: NDArray[np.float64] = shared / np.maximum(
            self.sizes[left] + self.sizes[right] - shared, 1
        )
        return overlap

    def _shared(self, left: Ints, right: Ints) -> Ints:
        num_codes = int(self.members.max(initial=0)) + 1
        runs = []
        for texts in (left, right):
            members, pair = self.take(texts)
            runs.append(pair * num_codes + members)
        both = np.concatenate(runs)
        both.sort(kind="stable")  # merges the two ascending runs in linear time
        twice = both[1:][both[1:] == both[:-1]]
        return np.bincount(twice // num_codes, minlength=left.size)


def pairs_within(group: Ints, reach: int | None = None) -> Iterator[tuple[Ints, Ints]]:
    """Pairs (i, j) of places, i < j, in ascending `group` that lie in the same group.

    Yielded by distance j - i, up to `reach`.
    """
    first = np.arange(group.size)
    distance = 0
    while first.size and (reach is None or distance < reach):
        distance += 1
        first = first[first + distance < group.size]
        first = first[group[first] == group[first + distance]]
        if first.size:
            yield first, first + distance


def near_clusters(folded: pa.StringArray) -> Ints:
    """Labels of distinct texts: equal for texts that a chain of near copies links.

    Exact unless more than 16 texts share one of their rarest word pairs: of those each is compared
    with 16 neighbours in alphabetical order, which still links the copies of one template.
    """
    order = np.asarray(pc.array_sort_indices(folded), np.int64)
    sets = TextSets.word_pairs(folded.take(pa.array(order)))
    left, right = _candidates(sets)
    near = sets.jaccard(left, right) >= NEAR
    labels = np.empty(order.size, np.int64)
    labels[order] = _components(order.size, left[near], right[near])
    return labels


def _candidates(sets: TextSets) -> tuple[Ints, Ints]:
    """Pairs of texts that can be near copies.

    Prefix filter (Chaudhuri et al. 2006): sets with Jaccard ≥ t share one of the rarest
    n - ceil(t n) + 1 of their n members.
    """
    members, text = sets.take(np.arange(sets.sizes.size))
    commonness = np.bincount(members)[members] if members.size else members
    rarest_first = np.lexsort((members, commonness, text))
    rank = np.arange(members.size) - sets.offsets[text]
    kept = sets.sizes - np.ceil(NEAR * sets.sizes - 1e-9).astype(np.int64) + 1
    chosen = rarest_first[rank < kept[text]]
    member, owner = members[chosen], text[chosen]
    by_member = np.lexsort((owner, member))
    member, owner = member[by_member], owner[by_member]
    num_texts = sets.sizes.size
    codes = [
        np.unique(owner[first] * num_texts + owner[second])
        for first, second in pairs_within(member, _NEIGHBOURS)
    ]
    left, right = np.divmod(np.unique(np.concatenate([np.zeros(0, np.int64), *codes])), num_texts)
    return left, right


def _components(num: int, left: Ints, right: Ints) -> Ints:
    """The lowest place of each place's connected component."""
    label = np.arange(num)
    while True:
        low, high = np.sort(np.stack([label[left], label[right]]), axis=0)
        apart = low != high
        if not apart.any():
            return label
        left, right = left[apart], right[apart]
        np.minimum.at(label, high[apart], low[apart])
        while (label[label] != label).any():
            label = label[label]


def _words(folded: pa.StringArray) -> tuple[Ints, Ints, Ints]:
    """Codes of all words, the text of each, and the number of words of each text."""
    split = pc.split_pattern(folded, " ")
    words = split.flatten()
    text = np.asarray(pc.list_parent_indices(split), np.int64)
    real = np.asarray(pc.not_equal(words, ""))
    codes = np.asarray(words.dictionary_encode().indices, np.int64)[real]
    text = text[real]
    return codes, text, np.bincount(text, minlength=len(folded))
