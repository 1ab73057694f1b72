"""Collective extraction: entities in groups, one prompt a group, members share the answers.

Source: REKI's collective extraction, in the design of papers B.12: k-means on unit vectors; a group
is shown by its most typical members, by the titles its members like more than others do, and by
its profile.
Legend: N entities of one side, K groups, D width.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
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
    knowledge_basis,
)

_RESTARTS: Final = 10
_MANY_ENTITIES: Final = 50_000
"""From here on k-means sees samples of the entities."""
_DIGITS: Final = 4
"""Vectors that agree so far are the same."""
_SHOWN_VALUES: Final = 5
_KNOWN_FACTOR: Final = 3
"""Typical members are chosen among the best known, so many times as are shown."""


FieldGroups = Mapping[str, "Groups"]
"""The groups of a collective field by factor; one entry, ALL_FACTORS, if all factors share them."""
ALL_FACTORS: Final = "*"


@dataclass(frozen=True, kw_only=True)
class Seeds:
    """What individual answers say about some items, for one factor."""

    item_S: NDArray[np.integer]
    """Item row - 1."""
    text_S: pa.Array


@dataclass(frozen=True, kw_only=True)
class Groups:
    """Groups that one or all factors of a collective field share."""

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

    @classmethod
    def none(cls, is_head: NDArray[np.bool_]) -> "Groups":
        """No group: only the head is asked."""
        nothing = np.zeros((is_head.size, 0), np.float32)
        return cls(
            prompts=(),
            nearest_NM=nothing.astype(np.int32),
            weight_NM=nothing,
            is_head=is_head,
            centroids_KD=nothing[:0],
            basis=None,
        )

    def members(self) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]:
        """(entity row, group, weight) of every membership, by row."""
        num_nearest = self.nearest_NM.shape[1]
        tail = np.flatnonzero(~self.is_head)
        row = np.repeat(tail + 1, num_nearest).astype(np.int32)
        return row, self.nearest_NM[tail].ravel(), self.weight_NM[tail].ravel()

    def save(self, folder: Path, field: str, factor: str) -> None:
        """Writes what later runs need to keep these groups."""
        table = {
            "centroid": list(self.centroids_KD),
            "prompt": [json.dumps(prompt, ensure_ascii=False) for prompt in self.prompts],
        }
        pq.write_table(pa.table(table), _groups_path(folder, field, factor))
        if self.basis is not None:
            basis = {"id": self.basis.ids, "vector": list(self.basis.vectors_ID)}
            pq.write_table(pa.table(basis), _basis_path(folder, field, factor))


def saved_files(folder: Path, field: str) -> list[Path]:
    """The files of a field's groups in a generate artifact. Raises InputError if there are none."""
    found = sorted(folder.glob(f"groups-{field}-*.parquet"))
    if not found:
        raise InputError(
            f"{folder} holds no groups of field {field!r}; name the folder of a finished generate "
            "artifact that extracted this field collectively"
        )
    return found


def head_of(field: GeneratedField, dataset: Dataset, liked_from: float) -> NDArray[np.bool_]:
    """[N]: the entities of a field that are asked individually, the most clicked ones."""
    clicks_N = Visible.of(dataset, liked_from).clicks(field.side)
    if field.extraction == "individual":
        return np.ones(clicks_N.size, bool)
    is_head = np.zeros(clicks_N.size, bool)
    num_head = round(field.collective.head * clicks_N.size)
    is_head[np.argsort(-clicks_N, kind="stable")[:num_head]] = True
    return is_head


def make_groups(
    field: GeneratedField,
    factors: Sequence[str],
    dataset: Dataset,
    liked_from: float,
    embed: Embed,
    seeds: Mapping[str, Seeds],
) -> FieldGroups:
    """The groups of a collective field, new or, with `collective.groups`, those of an earlier run.

    `seeds`: answers about items by factor (represent: knowledge). Raises ConfigError if there are
    fewer entities than groups, or a factor without seeds.
    """
    config = field.collective
    visible = Visible.of(dataset, liked_from)
    is_head = head_of(field, dataset, liked_from)
    ids = dataset.items()["id"].combine_chunks()
    by_factor: dict[str, Groups] = {}
    for factor in factors if config.represent == "knowledge" else (ALL_FACTORS,):
        kept = _load(Path(config.groups), field.name, factor) if config.groups else None
        basis = kept.basis if kept else None
        if config.represent == "text":
            vectors_ND = from_texts(dataset, field.side, visible, embed)
        else:
            if basis is None and config.represent == "clicks":
                basis = click_basis(visible, ids, config)
            elif basis is None:
                basis = _seeded(field, factor, visible, ids, embed, seeds)
            vectors_ND = from_clicks(dataset, field.side, visible, basis)
        centroids_KD = kept.centroids_KD if kept else _centroids(vectors_ND, field)
        if centroids_KD.shape[1] != vectors_ND.shape[1]:
            raise ConfigError(
                f"knowledge field {field.name!r}: the groups of {config.groups} were made from "
                f"vectors of width {centroids_KD.shape[1]}, these have {vectors_ND.shape[1]}; keep "
                "represent and the encoder as they were"
            )
        nearest_NM, weight_NM = _assign(vectors_ND, centroids_KD, config)
        prompts = (
            kept.prompts
            if kept
            else _prompts(field, dataset, visible, nearest_NM[:, 0], vectors_ND, centroids_KD)
        )
        by_factor[factor] = Groups(
            prompts=prompts,
            nearest_NM=nearest_NM,
            weight_NM=weight_NM,
            is_head=is_head,
            centroids_KD=centroids_KD,
            basis=basis,
        )
    return by_factor


def _seeded(
    field: GeneratedField,
    factor: str,
    visible: Visible,
    ids: pa.Array,
    embed: Embed,
    seeds: Mapping[str, Seeds],
) -> Basis:
    known = seeds.get(factor)
    if known is None or len(known.text_S) < 2:
        raise ConfigError(
            f"knowledge field {field.name!r}: represent: knowledge needs individual answers about "
            f"items for the factor {factor!r}: let an item field ask for it, individually or with "
            "collective.head above 0"
        )
    encoded = known.text_S.dictionary_encode()
    vector_SD = embed(encoded.dictionary)[encoded.indices.to_numpy()]
    return knowledge_basis(visible, ids, known.item_S, vector_SD, field.collective.dim)


def _centroids(vectors_ND: NDArray[np.float32], field: GeneratedField) -> NDArray[np.float32]:
    from sklearn.cluster import KMeans, MiniBatchKMeans

    config = field.collective
    if config.clusters > len(vectors_ND):
        raise ConfigError(
            f"knowledge field {field.name!r}: {config.clusters:,} clusters for "
            f"{len(vectors_ND):,} {field.side}s; set collective.clusters to fewer"
        )
    num_groups, kind = config.clusters, MiniBatchKMeans
    if len(vectors_ND) < _MANY_ENTITIES:
        # Where all answers are the same there is less to tell apart than groups to fill.
        num_groups = min(num_groups, len(np.unique(vectors_ND.round(_DIGITS), axis=0)))
        kind = KMeans
    means = kind(num_groups, n_init=_RESTARTS, random_state=config.seed).fit(vectors_ND)
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


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """Groups of an earlier run."""

    centroids_KD: NDArray[np.float32]
    basis: Basis | None
    prompts: tuple[Mapping[str, Any], ...]


def _load(folder: Path, field: str, factor: str) -> _Kept:
    saved_files(folder, field)
    table = pq.read_table(_groups_path(folder, field, factor))
    basis = None
    if _basis_path(folder, field, factor).exists():
        items = pq.read_table(_basis_path(folder, field, factor))
        vectors_ID = np.array(items["vector"].to_pylist(), np.float32)
        basis = Basis(ids=items["id"].combine_chunks(), vectors_ID=vectors_ID)
    return _Kept(
        centroids_KD=np.array(table["centroid"].to_pylist(), np.float32),
        basis=basis,
        prompts=tuple(json.loads(prompt) for prompt in table["prompt"].to_pylist()),
    )


def _groups_path(folder: Path, field: str, factor: str) -> Path:
    return folder / f"groups-{field}-{_file_name(factor)}.parquet"


def _basis_path(folder: Path, field: str, factor: str) -> Path:
    return folder / f"groups-{field}-{_file_name(factor)}-items.parquet"


def _file_name(factor: str) -> str:
    return "all" if factor == ALL_FACTORS else factor
