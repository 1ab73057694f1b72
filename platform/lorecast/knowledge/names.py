"""Names in texts, and whether the prompt had them: the others come out of the model's memory."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lorecast.knowledge.overlap import fold

Ints = NDArray[np.int64]

_CAPITALISED: Final = r"^[^\p{L}\p{N}]*(\p{Lu}[^\s'’]|\p{Lu}['’]\p{Lu})"
_ENDS_SENTENCE: Final = r"[.!?:]['\"”’)\]]*$"
_ENDS_NAME: Final = r"[.,;:!?)\]\"”]$"


@dataclass(frozen=True)
class Names:
    """Figures of each text: integers, aligned with the texts."""

    named: Ints
    """Runs of capitalised words; a word that opens a sentence does not count."""
    from_prompt: Ints
    """Those whose words all stand in the text's prompt."""


def count_names(texts: pa.StringArray, prompts: pa.StringArray) -> Names:
    """Names in each text and in its prompt; a text without a prompt (null) counts none."""
    chunks = pc.split_pattern_regex(pc.if_else(prompts.is_valid(), texts, ""), r"\s+")
    word = chunks.flatten()
    text = np.asarray(pc.list_parent_indices(chunks), np.int64)
    opens_text = np.diff(text, prepend=-1) > 0
    opens_sentence = opens_text | _after(_matches(word, _ENDS_SENTENCE))
    is_name = _matches(word, _CAPITALISED) & ~opens_sentence
    goes_on = is_name & _after(is_name & ~_matches(word, _ENDS_NAME)) & ~opens_text
    name_of_word = np.cumsum(is_name & ~goes_on) - 1
    text_of_name = text[is_name & ~goes_on]

    # "Lind's" and "Sci-Fi" fold to several words; single letters say nothing.
    parts = pc.split_pattern(fold(word.filter(pa.array(is_name))), " ")
    part = parts.flatten()
    name = name_of_word[is_name][np.asarray(pc.list_parent_indices(parts), np.int64)]
    is_long = np.asarray(pc.greater(pc.utf8_length(part), 1))
    part, name = part.filter(pa.array(is_long)), name[is_long]
    missing = np.bincount(
        name[~_in_prompt(part, text_of_name[name], prompts)], minlength=text_of_name.size
    )
    return Names(
        named=np.bincount(text_of_name, minlength=len(texts)),
        from_prompt=np.bincount(text_of_name[missing == 0], minlength=len(texts)),
    )


def _in_prompt(words: pa.StringArray, text: Ints, prompts: pa.StringArray) -> NDArray[np.bool_]:
    """Whether words[i] is one of the folded words of prompts[text[i]]."""
    shown = prompts.dictionary_encode()
    known = pc.unique(words)
    split = pc.split_pattern(fold(shown.dictionary), " ")
    code = pc.index_in(split.flatten(), value_set=known)
    used = np.asarray(code.is_valid())
    prompt = np.asarray(pc.list_parent_indices(split), np.int64)[used]
    num_words = max(len(known), 1)
    pairs = prompt * num_words + np.asarray(code.drop_null(), np.int64)
    prompt_of_text = np.asarray(pc.fill_null(shown.indices, 0), np.int64)
    asked = np.asarray(pc.index_in(words, value_set=known), np.int64)
    return np.isin(prompt_of_text[text] * num_words + asked, pairs)


def _matches(words: pa.StringArray, pattern: str) -> NDArray[np.bool_]:
    return np.asarray(pc.match_substring_regex(words, pattern))


def _after(flags: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether the flag of the one before is set."""
    return np.concatenate([[False], flags[:-1]]) if flags.size else flags
