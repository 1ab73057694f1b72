"""KAR's knowledge files: `{raw id: {"prompt": …, "ans": …}}`, named user.klg and item.klg.

`answer` stands for `ans`, too; prompts may be missing, and the entries may be spread over several
objects, as in JSON lines. Source: knowledge_encoding/lm_encoding.py in
github.com/YunjiaXi/Open-World-Knowledge-Augmented-Recommendation.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from lorecast.errors import InputError

_SUFFIX: Final = ".klg"
_ANSWER_NAMES: Final = ("ans", "answer")
_SHAPE: Final = 'expected {"<id>": {"prompt": "…", "ans": "…"}, …}'
_HEAD_BYTES: Final = 4096
_HEAD: Final = re.compile(
    r'\ufeff?\s*\{\s*"(?:[^"\\]|\\.)*"\s*:\s*\{\s*"(?:prompt|ans|answer)"\s*:'
)
_SPACE: Final = re.compile(r"\s*")


def looks_like_kar(path: Path) -> bool:
    """Whether a file ends in .klg or begins as KAR's files do; reads its first 4 KiB only."""
    if not path.is_file():
        return False
    if path.suffix.lower() == _SUFFIX:
        return True
    with path.open("rb") as file:
        return _HEAD.match(file.read(_HEAD_BYTES).decode("utf-8", "ignore")) is not None


def read_kar(path: Path) -> pa.Table:
    """Columns id and text, and prompt if the file has any; an answer that is null stays null.

    Raises InputError if the file is not UTF-8 or not JSON, has another shape or no entry, or has
    an id twice.
    """
    ids: list[str] = []
    texts: list[Any] = []
    prompts: list[Any] = []
    for raw_id, entry in _entries(path):
        fields = dict(entry) if isinstance(entry, tuple) else {}
        answer = next((name for name in _ANSWER_NAMES if name in fields), None)
        if answer is None:
            raise InputError(f"{path}: the entry of id {raw_id!r} has no answer; {_SHAPE}")
        ids.append(raw_id)
        texts.append(fields[answer])
        prompts.append(fields.get("prompt"))
    if not ids:
        raise InputError(f"{path}: holds no entry; {_SHAPE}")
    doubled = [raw_id for raw_id, count in Counter(ids).items() if count > 1]
    if doubled:
        raise InputError(
            f"{path}: {len(doubled):,} ids stand there more than once, the first {doubled[0]!r}; "
            "keep one answer an id"
        )
    columns = {"id": ids, "text": texts}
    if any(prompt is not None for prompt in prompts):
        columns["prompt"] = prompts
    return pa.table({name: _strings(path, name, ids, values) for name, values in columns.items()})


def _strings(path: Path, name: str, ids: list[str], values: list[Any]) -> pa.Array:
    wrong = [i for i, value in zip(ids, values, strict=True) if not isinstance(value, str | None)]
    if wrong:
        raise InputError(
            f"{path}: the {name} of {len(wrong):,} of {len(ids):,} entries is neither a string nor "
            f"null, the first that of id {wrong[0]!r}; {_SHAPE}"
        )
    try:
        return pa.array(values, pa.string())
    except UnicodeEncodeError:
        raise InputError(
            f"{path}: a {name} holds half of a surrogate pair (\\ud800 to \\udfff); write such "
            "characters whole"
        ) from None


def _entries(path: Path) -> Iterator[tuple[str, Any]]:
    """Ids with what they stand for, over all objects of the file; objects are tuples of pairs."""
    try:
        content = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 (byte {error.start:,}); save it as UTF-8") from None
    # Pairs, since a dict would silently keep the last of two equal ids.
    decoder = json.JSONDecoder(object_pairs_hook=tuple)
    at = _skip_space(content, 0)
    while at < len(content):
        try:
            pairs, at = decoder.raw_decode(content, at)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}: not JSON ({error}); {_SHAPE}") from None
        if not isinstance(pairs, tuple):
            raise InputError(f"{path}: holds a {type(pairs).__name__}; {_SHAPE}")
        yield from pairs
        at = _skip_space(content, at)


def _skip_space(content: str, at: int) -> int:
    match = _SPACE.match(content, at)
    assert match is not None
    return match.end()
