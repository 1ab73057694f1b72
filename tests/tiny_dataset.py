"""A small prepared dataset, written without Ray or tables, for tests of what comes after."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lorecast.artifacts import StageSpec, build, write_json
from lorecast.data.dataset import Dataset
from lorecast.data.features import feature_fields
from lorecast.data.histories import prefix_lengths, timelines
from lorecast.data.layout import (
    ITEMS,
    SPLITS,
    USERS,
    VOCABULARIES,
    fixed_lists,
    item_schema,
    part_name,
    samples_folder,
    user_schema,
)
from lorecast.data.samples import past_table, sample_index, sample_table

GENRES = ("Comedy", "Drama", "Western")
REGIONS = ("north", "south")
TAGS = ("dark", "fast", "old", "warm")
CONTEXTS = {"device": ("desk", "phone", "tv"), "hour": ("7", "19")}

_VOCABULARIES = {"item": {"genre": list(GENRES)}, "user": {}, "rating": [1, 2, 3, 4, 5]}
_SCALE = {"mean": 0.0, "std": 1.0}
_RICH = {
    "multi": {"item": {"tags": list(TAGS)}, "user": {"hobbies": list(TAGS)}},
    "numeric": {"item": {"price": _SCALE, "length": _SCALE}, "user": {"age": _SCALE}},
    "context": {name: list(values) for name, values in CONTEXTS.items()},
}


def write_tiny_dataset(
    workspace: Path,
    *,
    num_users: int = 30,
    num_items: int = 40,
    interactions_per_user: int = 24,
    history_length: int = 5,
    prefix_share: float = 0.25,
    seed: int = 0,
    rich: bool = False,
) -> Dataset:
    """Users like items of their favourite genre; users are split 60/20/20.

    Items have a title, the text column `genre` and the feature `genre`; users have the text column
    `region` and no feature. The first two users have only 3 interactions (padded histories).

    `rich`: items also have up to two `tags` and the numbers `price` and `length`, users up to three
    `hobbies` and the number `age`, and samples the contexts `device` and `hour`.
    """
    rng = np.random.default_rng(seed)
    length_U = np.full(num_users, interactions_per_user)
    length_U[:2] = 3
    user_row_N = np.repeat(np.arange(1, num_users + 1, dtype=np.int32), length_U)
    item_row_N = rng.integers(1, num_items + 1, user_row_N.size).astype(np.int32)
    genre_code = rng.integers(1, len(GENRES) + 1, num_items).astype(np.int32)
    favourite = rng.integers(1, len(GENRES) + 1, num_users + 1)
    likes = genre_code[item_row_N - 1] == favourite[user_row_N]
    rating_N = np.clip(2 + 2 * likes + rng.integers(-1, 2, likes.size), 1, 5).astype(np.int8)
    lines = timelines(
        rank_N=user_row_N.astype(np.int64),
        order_N=np.arange(user_row_N.size),
        user_row_N=user_row_N,
        item_row_N=item_row_N,
        rating_N=rating_N,
        label_N=(rating_N >= 4).astype(np.int8),
        timestamp_N=1_600_000_000 + 3600 * np.arange(user_row_N.size),
        part_N=np.zeros(user_row_N.size, np.int8),
        context_NK=_contexts(rng, user_row_N.size) if rich else None,
    )
    prefix_U = prefix_lengths(lines.length_U, prefix_share, 30)
    index_B = sample_index(lines, prefix_U)
    samples = sample_table(lines, index_B, history_length, list(CONTEXTS) if rich else ())
    split_U = np.searchsorted(
        [num_users * 6 // 10, num_users * 8 // 10], np.arange(num_users), "right"
    )
    _, past = past_table(lines, prefix_U, history_length)

    region_code = rng.integers(len(REGIONS), size=num_users)
    users = pa.table({"id": [f"u{n}" for n in range(1, num_users + 1)]})
    users = users.append_column("region", pa.array(REGIONS).take(pa.array(region_code)))
    for name in past.schema.names:
        users = users.append_column(past.schema.field(name), past[name])
    items = pa.Table.from_arrays(
        [
            pa.array([f"i{n}" for n in range(1, num_items + 1)]),
            pa.array([f"Film {n}" for n in range(1, num_items + 1)]),
            pa.array(GENRES).take(pa.array(genre_code - 1)),
            pa.array(genre_code),
        ],
        schema=item_schema(("genre",), ("genre",)),
    )
    users = users.cast(user_schema(("region",), (), history_length))
    if rich:
        items = _with_features(items, rng, {"tags": 2}, ("price", "length"))
        users = _with_features(users, rng, {"hobbies": 3}, ("age",))

    identity = {
        "tiny": [num_users, num_items, interactions_per_user, history_length, prefix_share, seed]
    }
    if rich:
        identity["rich"] = [rich]
    spec = StageSpec(stage="prepare", name="tiny", identity=identity)
    with build(workspace, spec) as draft:
        for code, split in enumerate(SPLITS):
            folder = samples_folder(draft.path, split)
            folder.mkdir(parents=True)
            chosen = samples.filter(pa.array(split_U[lines.user_row_N[index_B] - 1] == code))
            half = chosen.num_rows // 2
            pq.write_table(chosen.slice(0, half), folder / part_name(0))
            pq.write_table(chosen.slice(half), folder / part_name(1))
        pq.write_table(items, draft.path / ITEMS)
        pq.write_table(users, draft.path / USERS)
        write_json(draft.path / VOCABULARIES, _VOCABULARIES | (_RICH if rich else {}))
        draft.facts.update(
            history_length=history_length,
            text_columns={"item": ["genre"], "user": ["region"]},
        )
    return Dataset.open(spec.folder(workspace))


def _contexts(rng: np.random.Generator, count: int) -> NDArray[np.int32]:
    """Codes, some of them unknown."""
    columns = [rng.integers(len(values) + 1, size=count) for values in CONTEXTS.values()]
    return np.column_stack(columns).astype(np.int32)


def _with_features(
    table: pa.Table, rng: np.random.Generator, multi: dict[str, int], numeric: tuple[str, ...]
) -> pa.Table:
    """The table and random features; `multi` says how many values a row may have."""
    count = table.num_rows
    columns = []
    for width in multi.values():
        shuffled = rng.permuted(np.tile(np.arange(1, len(TAGS) + 1), (count, 1)), axis=1)
        present = np.arange(width) < rng.integers(width + 1, size=count)[:, None]
        columns.append(fixed_lists(np.where(present, shuffled[:, :width], 0).astype(np.int32)))
    columns += [pa.array(rng.normal(size=count).astype(np.float32)) for _ in numeric]
    for (name, kind), column in zip(feature_fields((), multi, numeric), columns, strict=True):
        table = table.append_column(pa.field(name, kind), column)
    return table
