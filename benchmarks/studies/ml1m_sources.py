"""Parts of MovieLens-1M as folders that `dataset.path` takes, below the git-ignored workspace.

Both part users 80/10/10 as configs/ml-1m.yaml does; `share` keeps so many of the training users,
more of them for a larger share, and VALID_SHARE of the validation users. All test users stay.

Legend: N ratings, H held-out ratings, L history.
"""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.ml1m import ROOT, data
from lorecast.config import SplitConfig
from lorecast.data.histories import windows
from lorecast.data.split import TEST, TRAIN, VALID, parts_of_users

VALID_SHARE = 0.5
TEST_SHARE = 1.0
_LONGEST = 30
_LIKED = 4
_NAMES = np.array(["train", "valid", "test"])


def by_user(share: float) -> Path:
    """KAR's protocol on some of the users: `part` in ratings.parquet, all else as it is."""
    ratings, folder = _ratings(share), _folder(f"users-{share:g}")
    pq.write_table(ratings, folder / "ratings.parquet")
    return folder


def held_out(share: float) -> Path:
    """Samples and histories that gear-rec's user texts can be used with.

    Those texts were written from the ratings marked gear_train = 1, of any time. Samples of all
    parts are the ratings marked 0, histories hold liked films of ratings marked 1. ratings.parquet
    has, beside `part` (samples only):

        order             rank inside the user, marked ratings first: what is up to the last marked
                          one, the writer of the text may have seen
        liked             the last 30 liked marked films before the rating
        liked_any_time    30 liked marked films around the rating, later ones included
    """
    ratings, folder = _ratings(share), _folder(f"held-out-{share:g}")
    ratings = ratings.filter(pc.is_valid(ratings["gear_train"])).sort_by(
        [("user_id", "ascending"), ("gear_train", "descending"), ("user_seq", "ascending")]
    )
    user_N, seq_N = ratings["user_id"].to_numpy(), ratings["user_seq"].to_numpy()
    marked_N = ratings["gear_train"].to_numpy() == 1
    first_N = np.searchsorted(user_N, user_N)
    named = {
        "part": pc.if_else(pa.array(marked_N), None, ratings["part"]),
        "order": pa.array(np.arange(user_N.size) - first_N),
    }
    liked_N = marked_N & (ratings["rating"].to_numpy() >= _LIKED)
    key_N = user_N.astype(np.int64) << 32 | seq_N
    key_V, film_V = key_N[liked_N], ratings["movie_id"].to_numpy()[liked_N]
    start_N = np.searchsorted(key_V, user_N.astype(np.int64) << 32)
    stop_N = np.searchsorted(key_V, (user_N.astype(np.int64) + 1) << 32)
    now_N = np.searchsorted(key_V, key_N)
    later_N = np.minimum(np.maximum(now_N + _LONGEST // 2, start_N + _LONGEST), stop_N)
    for name, end_N in (("liked", now_N), ("liked_any_time", later_N)):
        depth_N = np.where(marked_N, 0, end_N - start_N)
        named[name] = _lists(windows(film_V, end_N, depth_N, _LONGEST))
    for name, column in named.items():
        place = ratings.schema.get_field_index(name)
        ratings = (
            ratings.append_column(name, column)
            if place < 0
            else ratings.set_column(place, name, column)
        )
    pq.write_table(ratings, folder / "ratings.parquet")

    films = pq.read_table(folder / "movies.parquet")
    genre = pc.replace_substring_regex(films["genres"], r"\|.*", "")
    pq.write_table(films.append_column("genre", genre), folder / "movies.parquet")
    texts = pq.read_table(data() / "ml-1m" / "knowledge" / "user.parquet")
    users, count = np.unique(user_N[marked_N], return_counts=True)
    place = pc.index_in(texts["user_id"], pa.array(users))
    seen = pc.subtract(pa.array(count), 1).take(place)
    texts = texts.append_column("seen", seen).filter(seen.is_valid())
    pq.write_table(texts, folder / "knowledge" / "user.parquet")
    return folder


def percent(share: float) -> str:
    """A share for people."""
    return f"{100 * share:g} %"


def _ratings(share: float) -> pa.Table:
    """The ratings of the users that are kept, with their part."""
    ratings = pq.read_table(data() / "ml-1m" / "ratings.parquet")
    users = pq.read_table(data() / "ml-1m" / "users.parquet", columns=["user_id"])["user_id"]
    part_U = parts_of_users(len(users), SplitConfig())[1:]
    kept_U = np.zeros(len(users), np.bool_)
    for part, of_part in ((TRAIN, share), (VALID, VALID_SHARE), (TEST, TEST_SHARE)):
        row_P = np.random.default_rng(part).permutation(np.flatnonzero(part_U == part))
        kept_U[row_P[: round(of_part * row_P.size)]] = True
    row_N = pc.index_in(ratings["user_id"], users.combine_chunks()).to_numpy()
    ratings = ratings.append_column("part", pa.array(_NAMES[part_U[row_N]]))
    return ratings.filter(pa.array(kept_U[row_N]))


def _folder(name: str) -> Path:
    """An empty folder with the users, films and item texts."""
    folder = ROOT / "workspace" / "benchmark" / "ml-1m" / name
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "knowledge").mkdir(parents=True)
    for file in ("users.parquet", "movies.parquet", "knowledge/item.parquet"):
        shutil.copyfile(data() / "ml-1m" / file, folder / file)
    return folder


def _lists(film_NL: NDArray[np.generic]) -> pa.ListArray:
    """Lists of the films that are not padding."""
    there_NL = film_NL != 0
    offsets = np.concatenate(([0], there_NL.sum(1).cumsum()))
    return pa.ListArray.from_arrays(offsets.astype(np.int32), pa.array(film_NL[there_NL]))
