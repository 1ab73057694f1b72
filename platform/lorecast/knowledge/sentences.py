"""Texts to chunks: cut at sentence ends, sentences grouped evenly; whole columns at a time."""

from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

_CUT: Final = "\x1f"
_STEPS: Final = (
    (r"\s*[\x1f\r\n]+\s*", _CUT),
    # An abbreviation or an initial ends no sentence: its blank is hidden from the next step.
    (
        r"\b((?:Mr|Mrs|Ms|Dr|St|Jr|Sr|Prof|Lt|Col|Gen|Capt|Sgt|No|vs|etc|e\.g|i\.e|[A-Z])\.)[ \t]+",
        "\\1\x1e",
    ),
    (r"""([.!?…]["'”’»)\]*_]*)\s+(["'“‘«\[*_¿¡-]*[\p{Lu}\p{Lo}\p{N}])""", "\\1\x1f\\2"),
    (r"([。！？]+[”’」』）]*)\s*", "\\1\x1f"),
    ("\x1e", " "),
)


def split_sentences(texts: pa.Array) -> pa.ListArray:
    """The sentences of each text, trimmed and without blank ones; null texts have none."""
    cut = pc.fill_null(texts.cast(pa.string()), "")
    for pattern, replacement in _STEPS:
        cut = pc.replace_substring_regex(cut, pattern, replacement)
    lists = pc.split_pattern(cut, _CUT)
    sentences = pc.utf8_trim_whitespace(lists.flatten())
    owner = pc.list_parent_indices(lists)
    kept = pc.not_equal(sentences, "")
    counts = np.bincount(owner.filter(kept).to_numpy(), minlength=len(texts))
    return pa.ListArray.from_arrays(_offsets(counts), sentences.filter(kept))


def group_evenly(sentences: pa.ListArray, max_groups: int) -> pa.ListArray:
    """At most `max_groups` texts per list: neighbouring sentences, in groups whose sizes differ by
    at most one."""
    counts = pc.list_value_length(sentences).to_numpy()
    groups = np.minimum(counts, max_groups)
    list_offsets, group_offsets = _offsets(counts), _offsets(groups)
    owner = np.repeat(np.arange(len(counts)), groups)
    group = np.arange(group_offsets[-1]) - group_offsets[:-1][owner]
    starts = list_offsets[:-1][owner] + group * counts[owner] // groups[owner]
    bounds = np.append(starts, list_offsets[-1]).astype(np.int32)
    joined = pc.binary_join(pa.ListArray.from_arrays(bounds, sentences.flatten()), " ")
    return pa.ListArray.from_arrays(group_offsets, joined)


def _offsets(counts: NDArray[np.integer]) -> NDArray[np.int32]:
    return np.concatenate(([0], np.cumsum(counts))).astype(np.int32)
