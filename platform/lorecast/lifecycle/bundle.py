"""The bundle of a click model: all it needs to score, in one folder; see `card` for all kinds.

    bundle.json                     written last: what every bundle says, and the model
    weights.safetensors             the model's parameters
    items.parquet, users.parquet    ids, features, recent histories and when they end; line i is
                                    row i + 1, also where it joined later (`refreshing`)
    {item,user}.npy, *_mask.npy     stored knowledge vectors and their mask, and where the texts'
                                    certainty is known *_certainty.npy; or instead of them
    {item,user}_prestored.npy       what the extractor makes of each entity, float32 [rows + 1, I],
                                    beside the mask; the bare backbone has none of all these
    user_history_end.npy            how far the writer of the users' texts saw, see `leakage`
    texts.parquet                   what was written, see `texts`; not all bundles have it
    check.json                      see `check_rows`

One whose backbone is a class of the user's own names that class, and opens only where
LORECAST_ALLOW_CODE=1 says that it may be run.
"""

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from lorecast.artifacts import Artifact
from lorecast.config import ModelConfig, Side
from lorecast.config.model import BACKBONES
from lorecast.data import features
from lorecast.data.dataset import Dataset, FeatureSchema
from lorecast.data.layout import LAST_ORDER
from lorecast.encoding.vectors import HISTORY_END, VectorsTable
from lorecast.errors import ArtifactError
from lorecast.lifecycle.card import BundleCard, Kind, common_card, seal
from lorecast.lifecycle.check_rows import write_check_rows
from lorecast.lifecycle.texts import write_texts
from lorecast.models.click_model import ClickModel
from lorecast.models.feature_tables import SideFeatures, feature_tables
from lorecast.models.knowledge import ChunkVectors, KnowledgeShape
from lorecast.models.prestored import EntityTables

WEIGHTS = "weights.safetensors"
_ALLOW_CODE = "LORECAST_ALLOW_CODE"
_USER_COLUMNS = ("id", "recent_item_rows", "recent_ratings", LAST_ORDER)
_ITEM_COLUMNS = ("id", "title")
_VECTORS = tuple(
    f"{side}{kind}" for side in ("item", "user") for kind in ("", "_mask", "_certainty")
)
_MASKS = ("item_mask", "user_mask")
PRESTORED = "{}_prestored.npy"
_BLOCK_ROWS = 1024
"""Entities prestored at once; bounds memory."""


def write_bundle(
    folder: Path,
    trained: Artifact,
    dataset: Dataset,
    vectors: VectorsTable | None,
    *,
    prestore: bool = False,
    knowledge: Path | None = None,
) -> None:
    """Writes the bundle of a trained model to `folder`, which is made anew.

    `trained` is an output of `train` on `dataset` with `vectors` (none: the bare backbone);
    `prestore` works out what depends on one entity alone, and leaves the vectors behind;
    `knowledge` is the artifact whose texts the bundle is to hold.
    """
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    shutil.copyfile(trained.path / WEIGHTS, folder / WEIGHTS)
    _write_entities(folder / "items.parquet", dataset.items(), _ITEM_COLUMNS)
    _write_entities(folder / "users.parquet", dataset.users(), _USER_COLUMNS)
    write_check_rows(folder, dataset, trained.path)
    fingerprints = {"model": trained.fingerprint, "dataset": dataset.fingerprint}
    if vectors is not None:
        encoded = Artifact.open(vectors.path)
        fingerprints["vectors"] = encoded.fingerprint
        fingerprints["knowledge"] = encoded.manifest["inputs"]["knowledge"]
        for name in (*(_MASKS if prestore else _VECTORS), HISTORY_END.removesuffix(".npy")):
            if (vectors.path / f"{name}.npy").exists():
                shutil.copyfile(vectors.path / f"{name}.npy", folder / f"{name}.npy")
        if knowledge is not None:
            write_texts(folder, knowledge, vectors)
    card: dict[str, Any] = {
        **common_card(Bundle.kind, dataset),
        "model": json.loads((trained.path / "model.json").read_text(encoding="utf-8")),
        "contexts": dataset.contexts,
        "fingerprints": fingerprints,
        "metrics": trained.facts["metrics"],
    }
    if prestore and vectors is not None:
        bundle = Bundle._of(folder, card)
        model = bundle.load_model(vectors)
        card["prestored"] = {
            side: _prestore(folder, model, side, bundle.num_rows(side))
            for side in vectors.names
            if vectors.chunks(side)
        }
    seal(folder, card)


@dataclass(frozen=True, kw_only=True)
class Bundle(BundleCard):
    """An opened bundle."""

    kind: ClassVar[Kind] = "click"

    model: ModelConfig
    schema: FeatureSchema
    """Of training: entities whose rows are beyond its counts joined later, see `refreshing`."""
    knowledge: KnowledgeShape | None
    injected: bool
    """The extractor acts on a backbone that was trained without it, see `ClickModel`."""
    prestored: Mapping[Side, int]
    """Widths of prestored rows; of no side, if there are vectors instead."""
    refreshed: tuple[Mapping[str, Any], ...]
    """What `refreshing` did since training, in order."""

    @classmethod
    def _parse(cls, folder: Path, card: Mapping[str, Any]) -> Self:
        _check_code(folder, card["model"]["config"]["backbone"])
        return cls._of(folder, card)

    @classmethod
    def _of(cls, folder: Path, card: Mapping[str, Any]) -> Self:
        model = card["model"]
        shape = model["knowledge"]
        schema = FeatureSchema.from_dict(model["schema"])
        prestored = card.get("prestored", {})
        if not set(prestored) <= set(get_args(Side)):
            raise ValueError("a side is item or user")  # they name files
        return cls(
            **cls._common(folder, card),
            model=ModelConfig.model_validate(model["config"]),
            schema=schema,
            num_users=card.get("entities", {}).get("user", schema.num_users),
            num_items=card.get("entities", {}).get("item", schema.num_items),
            knowledge=None if shape is None else KnowledgeShape.from_dict(shape),
            strategy=model["strategy"],
            injected=model.get("injected", model["strategy"] == "extractor_only"),
            prestored=prestored,
            refreshed=tuple(card.get("refreshed", ())),
        )

    def feature_codes(self, side: Side) -> NDArray[np.int32]:
        """[rows + 1, A] in the order of the schema; row 0 is unknown."""
        names = self.schema.features(side)
        return features.feature_codes(self._features(side, features.FEATURE_PREFIX, names), names)

    def multi_codes(self, side: Side) -> dict[str, NDArray[np.int32]]:
        """Name → [rows + 1, W], see `Dataset.multi_codes`."""
        names = self.schema.multi(side)
        return features.multi_codes(self._features(side, features.MULTI_PREFIX, names), names)

    def numeric(self, side: Side) -> NDArray[np.float32]:
        """[rows + 1, K], see `Dataset.numeric`."""
        names = self.schema.numeric(side)
        return features.numbers(self._features(side, features.NUMERIC_PREFIX, names), names)

    def _features(self, side: Side, prefix: str, names: Iterable[str]) -> pa.Table:
        columns = ["id", *(prefix + name for name in names)]
        return pq.read_table(self.path / f"{side}s.parquet", columns=columns)

    def num_rows(self, side: Side) -> int:
        """Entities of a side, with row 0."""
        return 1 + (self.num_items if side == "item" else self.num_users)

    def has_text(self, side: Side) -> NDArray[np.bool_] | None:
        """[rows + 1], which entities of a side that it has knowledge of have any; none if it was
        made by a version that did not say."""
        path = self.path / f"{side}_mask.npy"
        if not path.exists():
            return None
        mask: NDArray[np.bool_] = np.load(path, allow_pickle=False)
        has_text_R: NDArray[np.bool_] = np.asarray(mask.any(axis=1))
        return has_text_R

    def history_end(self) -> NDArray[np.int32] | None:
        """[users + 1], how far the writer of the users' texts saw (see `knowledge.leakage`); none
        as in `has_text`."""
        path = self.path / HISTORY_END
        if not path.exists():
            return None
        ends: NDArray[np.int32] = np.load(path, allow_pickle=False)
        return ends

    def load_model(
        self,
        knowledge: ChunkVectors | EntityTables | None,
        tables: tuple[SideFeatures, SideFeatures] | None = None,
    ) -> ClickModel:
        """The model in evaluation mode; it reads `knowledge` where it lies. `tables`: features of
        other items and users than the bundle's, which then are the rows.

        Raises SafetensorError, RuntimeError, KeyError or OSError if the weights are not the
        model's.
        """
        model = ClickModel(self.model, self.schema, self.knowledge, injected=self.injected)
        model.attach(*(tables or feature_tables(self)), knowledge)
        model.load_state_dict(load_file(self.path / WEIGHTS))
        return model.eval()

    def open_knowledge(self) -> "BundleVectors | EntityTables | None":
        """Prestored rows or vectors, memory-mapped; none for the bare backbone.

        Raises ValueError if their shape is not the model's.
        """
        if self.knowledge is None:
            return None
        if self.prestored:
            return EntityTables(
                {
                    side: self._map(PRESTORED.format(side), (self.num_rows(side), width))
                    for side, width in self.prestored.items()
                }
            )
        vectors: dict[Side, NDArray[np.float16]] = {}
        masks: dict[Side, NDArray[np.bool_]] = {}
        certainties: dict[Side, NDArray[np.float16]] = {}
        for side in self.knowledge.sides:
            shape = (self.num_rows(side), len(self.knowledge.chunks(side)))
            vectors[side] = self._map(f"{side}.npy", (*shape, self.knowledge.dim))
            masks[side] = self._map(f"{side}_mask.npy", shape)
            if self.model.reads_certainty:
                certainties[side] = self._map(f"{side}_certainty.npy", shape)
        return BundleVectors(vectors, masks, certainties)

    def _map(self, name: str, shape: tuple[int, ...]) -> NDArray[Any]:
        mapped = np.load(self.path / name, mmap_mode="r", allow_pickle=False)
        array: NDArray[Any] = np.asarray(mapped)  # a plain view: np.memmap gathers slower
        if array.shape != shape:
            raise ValueError(f"{name} has shape {array.shape}, the model wants {shape}")
        return array


@dataclass(frozen=True)
class BundleVectors:
    """A bundle's vectors as models read them, see `models.knowledge.ChunkVectors`."""

    _vectors: Mapping[Side, NDArray[np.float16]]
    _masks: Mapping[Side, NDArray[np.bool_]]
    _certainties: Mapping[Side, NDArray[np.float16]]

    def vectors(self, side: Side) -> NDArray[np.float16]:
        """[rows + 1, C, D]."""
        return self._vectors[side]

    def mask(self, side: Side) -> NDArray[np.bool_]:
        """[rows + 1, C]."""
        return self._masks[side]

    def certainty(self, side: Side) -> NDArray[np.float16] | None:
        """[rows + 1, C]; none where the model does not read it."""
        return self._certainties.get(side)


@torch.inference_mode()
def _prestore(folder: Path, model: ClickModel, side: Side, num_rows: int) -> int:
    """Writes what the model's extractor makes of each entity; returns I, the width of a row."""
    width = model.entity_rows(side, torch.zeros(1, dtype=torch.int64)).shape[1]
    create: Any = np.lib.format.open_memmap
    table = create(folder / PRESTORED.format(side), "w+", np.float32, (num_rows, width))
    for start in range(0, num_rows, _BLOCK_ROWS):
        stop = min(start + _BLOCK_ROWS, num_rows)
        table[start:stop] = model.entity_rows(side, torch.arange(start, stop)).numpy()
    table.flush()
    return width


def _write_entities(path: Path, table: pa.Table, columns: tuple[str, ...]) -> None:
    described = [name for name in table.column_names if name.startswith(features.PREFIXES)]
    known = [name for name in columns if name in table.column_names]  # older datasets lack some
    pq.write_table(table.select([*known, *described]), path)


def _check_code(folder: Path, backbone: str) -> None:
    """Raises ArtifactError if opening the bundle would run code that it names, uninvited."""
    if backbone not in BACKBONES and os.environ.get(_ALLOW_CODE) != "1":
        raise ArtifactError(
            f"{folder}: its backbone is the Python class {backbone!r}, which loading would run; "
            f"set {_ALLOW_CODE}=1 if you trust the bundle and that code"
        )
