"""Collective extraction: entities in groups, one prompt a group, members share the answers.

Source: REKI's collective extraction, in the design of papers B.12: k-means on unit vectors; a group
is shown by its most typical members, by the titles its members like more than others do, and by
its profile.
Legend: N entities of one side, K groups, D width.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from lorecast.config import CollectiveConfig, GeneratedField
from lorecast.data.dataset import Dataset
from lorecast.errors import ConfigError, InputError
from lorecast.knowledge.representation import (
    Basis,
    Embed,
    Visible,
    click_basis,
    from_clicks,
    from_texts,
)

_RESTARTS: Final = 10
_MANY_ENTITIES: Final = 50_000
"""From here on k-means sees samples of the entities."""
_SHOWN_VALUES: Final = 5
_KNOWN_FACTOR: Final = 3
"""Typical members are chosen among the best known, so many times as are shown."""


@dataclass(frozen=True, kw_only=True)
class Groups:
    """The groups of one collective field."""

    prompts: tuple[Mapping[str, Any], ...]
    """For each group, what its prompt sees: size, members, liked, disliked, profile."""
    nearest_NM: NDArray[np.int32]
    """Numbers of the one or two groups that an entity takes knowledge from."""
    weight_NM: NDArray[np.float32]
    """Their weights; they add up to 1."""
    is_head: NDArray[np.bool_]
    """[N]: entities that are asked individually."""
    centroids_KD: NDArray[np.float32]
    basis: Basis | None
    """Item vectors behind the centroids (represent: clicks)."""

    def members(self) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]:
        """(entity row, group, weight) of every membership, by row."""
        num_nearest = self.nearest_NM.shape[1]
        tail = np.flatnonzero(~self.is_head)
        row = np.repeat(tail + 1, num_nearest).astype(np.int32)
        return row, self.nearest_NM[tail].ravel(), self.weight_NM[tail].ravel()

    def save(self, folder: Path, field: str) -> None:
        """Writes what later runs need to keep these groups."""
        folder.mkdir(parents=True, exist_ok=True)
        table = {
            "centroid": list(self.centroids_KD),
            "prompt": [json.dumps(prompt, ensure_ascii=False) for prompt in self.prompts],
        }
        pq.write_table(pa.table(table), _groups_path(folder, field))
        if self.basis is not None:
            basis = {"id": self.basis.ids, "vector": list(self.basis.vectors_ID)}
            pq.write_table(pa.table(basis), _basis_path(folder, field))


def saved_files(folder: Path, field: str) -> list[Path]:
    """The files of a field's groups in a generate artifact. Raises InputError if there are none."""
    found = [_groups_path(folder, field), _basis_path(folder, field)]
    if not found[0].exists():
        raise InputError(
            f"{folder} holds no groups of field {field!r}; name the folder of a finished generate "
            "artifact that extracted this field collectively"
        )
    return [path for path in found if path.exists()]


def make_groups(field: GeneratedField, dataset: Dataset, liked_from: float, embed: Embed) -> Groups:
    """The groups of a collective field, new or, with `collective.groups`, those of an earlier run.

    Raises ConfigError if there are fewer entities than groups.
    """
    config, side = field.collective, field.side
    visible = Visible.of(dataset, liked_from)
    kept = _load(Path(config.groups), field.name) if config.groups else None
    basis = kept[1] if kept else None
    if config.represent == "text":
        vectors_ND = from_texts(dataset, side, visible, embed)
    else:
        basis = basis or click_basis(visible, dataset.items()["id"].combine_chunks(), config)
        vectors_ND = from_clicks(dataset, side, visible, basis)
    centroids_KD = kept[0] if kept else _centroids(vectors_ND, field)
    if centroids_KD.shape[1] != vectors_ND.shape[1]:
        raise ConfigError(
            f"knowledge field {field.name!r}: the groups of {config.groups} were made from vectors "
            f"of width {centroids_KD.shape[1]}, these have {vectors_ND.shape[1]}; keep represent "
            "and the encoder as they were"
        )
    nearest_NM, weight_NM = _assign(vectors_ND, centroids_KD, config)
    clicks_N = visible.clicks(side)
    num_head = round(config.head * clicks_N.size)
    is_head = np.zeros(clicks_N.size, bool)
    is_head[np.argsort(-clicks_N, kind="stable")[:num_head]] = True
    prompts = (
        kept[2]
        if kept
        else _prompts(field, dataset, visible, nearest_NM[:, 0], vectors_ND, centroids_KD)
    )
    return Groups(
        prompts=prompts,
        nearest_NM=nearest_NM,
        weight_NM=weight_NM,
        is_head=is_head,
        centroids_KD=centroids_KD,
        basis=basis,
    )


def _centroids(vectors_ND: NDArray[np.float32], field: GeneratedField) -> NDArray[np.float32]:
    from sklearn.cluster import KMeans, MiniBatchKMeans

    config = field.collective
    if config.clusters > len(vectors_ND):
        raise ConfigError(
            f"knowledge field {field.name!r}: {config.clusters:,} clusters for "
            f"{len(vectors_ND):,} {field.side}s; set collective.clusters to fewer"
        )
    kind = KMeans if len(vectors_ND) < _MANY_ENTITIES else MiniBatchKMeans
    means = kind(config.clusters, n_init=_RESTARTS, random_state=config.seed).fit(vectors_ND)
    centroids_KD: NDArray[np.float32] = means.cluster_centers_.astype(np.float32)
    return centroids_KD


def _assign(
    vectors_ND: NDArray[np.float32], centroids_KD: NDArray[np.float32], config: CollectiveConfig
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Numbers and weights of the nearest group, or of the two nearest ones: [N, M] each."""
    num_nearest = min(2 if config.assign == "mix" else 1, len(centroids_KD))
    nearest, weight = [], []
    unit_KD = centroids_KD / np.maximum(np.linalg.norm(centroids_KD, axis=1)[:, None], 1e-12)
    for start in range(0, len(vectors_ND), 8192):
        part_BD = vectors_ND[start : start + 8192]
        distance_BK = (centroids_KD**2).sum(axis=1) - 2 * part_BD @ centroids_KD.T
        near_BM = np.argsort(distance_BK, axis=1, kind="stable")[:, :num_nearest]
        alike_BM = np.take_along_axis(part_BD @ unit_KD.T, near_BM, axis=1).clip(1e-3)
        nearest.append(near_BM.astype(np.int32))
        weight.append((alike_BM / alike_BM.sum(axis=1, keepdims=True)).astype(np.float32))
    return np.concatenate(nearest), np.concatenate(weight)


def _prompts(
    field: GeneratedField,
    dataset: Dataset,
    visible: Visible,
    group_N: NDArray[np.int32],
    vectors_ND: NDArray[np.float32],
    centroids_KD: NDArray[np.float32],
) -> tuple[Mapping[str, Any], ...]:
    """What each group's prompt sees."""
    side, shown, num_groups = field.side, field.collective.shown, len(centroids_KD)
    titles = dataset.items()["title"].to_pylist()
    entities = dataset.items() if side == "item" else dataset.users()
    liked: list[list[str]] = [[] for _ in range(num_groups)]
    disliked = liked
    if side == "user":
        member = csr_matrix(
            (np.ones(group_N.size), (group_N, np.arange(group_N.size))),
            shape=(num_groups, group_N.size),
        )
        liked, disliked = (
            _overrepresented(member @ visible.matrix(1.0 * chosen), titles, shown)
            for chosen in (visible.is_liked_M, ~visible.is_liked_M)
        )
    columns = {
        name: entities[name].to_numpy(zero_copy_only=False) for name in dataset.text_columns[side]
    }
    clicks_N = visible.clicks(side)
    prompts = []
    for group in range(num_groups):
        members = np.flatnonzero(group_N == group)
        typical: list[str] = []
        if side == "item":
            best = members[np.argsort(-clicks_N[members], kind="stable")][: _KNOWN_FACTOR * shown]
            alike = vectors_ND[best] @ centroids_KD[group]
            typical = [titles[item] for item in best[np.argsort(-alike, kind="stable")][:shown]]
        prompts.append(
            {
                "size": int(members.size),
                "members": typical,
                "liked": liked[group],
                "disliked": disliked[group],
                "profile": {name: _shares(values[members]) for name, values in columns.items()},
            }
        )
    return tuple(prompts)


def _overrepresented(counts_KI: csr_matrix, titles: list[str], shown: int) -> list[list[str]]:
    """For each group the titles that its share favours most over everyone's: those with the
    largest terms of the Kullback-Leibler divergence."""
    total_I = np.asarray(counts_KI.sum(axis=0)).ravel()
    everyone_I = total_I / max(total_I.sum(), 1)
    named = []
    for group in range(counts_KI.shape[0]):
        row = counts_KI[group]
        item, count = row.indices[row.data > 0], row.data[row.data > 0]
        share = count / max(count.sum(), 1)
        excess = share * np.log(share / everyone_I[item])
        best = np.lexsort((item, -excess))[:shown]
        named.append([titles[place] for place in item[best][excess[best] > 0]])
    return named


def _shares(values: Iterable[Any]) -> list[tuple[str, float]]:
    """The most frequent values with their shares, most frequent first."""
    array = pa.array(values, pa.string()).drop_null()
    counts = pc.value_counts(array).to_pylist()
    frequent = sorted(counts, key=lambda count: (-count["counts"], count["values"]))
    return [(each["values"], round(each["counts"] / len(array), 3)) for each in frequent][
        :_SHOWN_VALUES
    ]


def _load(
    folder: Path, field: str
) -> tuple[NDArray[np.float32], Basis | None, tuple[Mapping[str, Any], ...]]:
    files = saved_files(folder, field)
    table = pq.read_table(files[0])
    centroids_KD = np.array(table["centroid"].to_pylist(), np.float32)
    basis = None
    if len(files) > 1:
        items = pq.read_table(files[1])
        vectors_ID = np.array(items["vector"].to_pylist(), np.float32)
        basis = Basis(ids=items["id"].combine_chunks(), vectors_ID=vectors_ID)
    prompts = tuple(json.loads(prompt) for prompt in table["prompt"].to_pylist())
    return centroids_KD, basis, prompts


def _groups_path(folder: Path, field: str) -> Path:
    return folder / f"groups-{field}.parquet"


def _basis_path(folder: Path, field: str) -> Path:
    return folder / f"groups-{field}-items.parquet"
