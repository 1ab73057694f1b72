"""What a prepared dataset looks like on disk: names and Arrow schemas.

    samples/{train,valid,test}/part-*.parquet    one row a sample; a user's follow each other
    items.parquet, users.parquet                 one row an entity; line i is row i + 1
    vocabularies.json                            value lists; the code of a value is its index + 1;
                                                 scales of numbers
    rejected/part-*.parquet                      what was left out, with the reason

Samples stand in a shuffled but fixed order of the users, each user's by position. Row 0 stands for
padding and for unknown entities, code 0 for an unknown feature value.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, Literal, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lorecast.data.features import feature_fields

Split = Literal["train", "valid", "test"]
SPLITS: Final[tuple[Split, ...]] = get_args(Split)

STAGE: Final = "prepare"
ITEMS: Final = "items.parquet"
USERS: Final = "users.parquet"
VOCABULARIES: Final = "vocabularies.json"
REJECTED: Final = "rejected"
CONTEXT_PREFIX: Final = "context:"
LAST_ORDER: Final = "last_order"


def samples_folder(dataset: Path, split: Split) -> Path:
    return dataset / "samples" / split


def part_name(index: int) -> str:
    """File names sort in part order."""
    return f"part-{index:05d}.parquet"


def fixed_lists(values_BL: NDArray[np.generic]) -> pa.FixedSizeListArray:
    """Lines of an array as lists of fixed size."""
    return pa.FixedSizeListArray.from_arrays(
        pa.array(np.ascontiguousarray(values_BL).ravel()), values_BL.shape[1]
    )


def sample_schema(history_length: int, context: Iterable[str] = ()) -> pa.Schema:
    """`context`: names of the categories that say something about the moment."""
    return pa.schema(
        [
            ("user_row", pa.int32()),
            ("item_row", pa.int32()),
            ("label", pa.int8()),
            ("timestamp", pa.int64()),
            ("position", pa.int32()),
            ("history_item_rows", pa.list_(pa.int32(), history_length)),
            ("history_ratings", pa.list_(pa.int8(), history_length)),
            *((CONTEXT_PREFIX + name, pa.int32()) for name in context),
        ]
    )


def item_schema(
    text: Iterable[str],
    features: Iterable[str],
    multi: Mapping[str, int] | None = None,
    numeric: Iterable[str] = (),
) -> pa.Schema:
    """`multi`: the widths of multi-valued features; see `features`."""
    described = feature_fields(features, multi or {}, numeric)
    return pa.schema([("id", pa.string()), ("title", pa.string()), *_texts(text), *described])


def user_schema(
    text: Iterable[str],
    features: Iterable[str],
    history_length: int,
    multi: Mapping[str, int] | None = None,
    numeric: Iterable[str] = (),
) -> pa.Schema:
    """As `item_schema`, with the columns that come from interactions."""
    described = feature_fields(features, multi or {}, numeric)
    return pa.schema([("id", pa.string()), *_texts(text), *described, *_past(history_length)])


def past_schema(history_length: int) -> pa.Schema:
    """The columns of users.parquet that come from interactions.

    history_end: position of the last interaction that prompts may show, -1 for none. prompt_*:
    the interactions up to there, oldest first. recent_*: the last L of all, newest last, padded
    with 0 on the left (of histories that a column gives: the newest of them). last_order: what the
    last of all is sorted by, its time or a column of its own; null for none.
    """
    return pa.schema(_past(history_length))


def _texts(names: Iterable[str]) -> list[tuple[str, pa.DataType]]:
    return [(name, pa.string()) for name in names]


def _past(history_length: int) -> list[tuple[str, pa.DataType]]:
    return [
        ("history_end", pa.int32()),
        ("prompt_item_rows", pa.list_(pa.int32())),
        ("prompt_ratings", pa.list_(pa.int8())),
        ("recent_item_rows", pa.list_(pa.int32(), history_length)),
        ("recent_ratings", pa.list_(pa.int8(), history_length)),
        (LAST_ORDER, pa.int64()),
    ]
