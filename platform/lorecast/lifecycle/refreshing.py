"""A bundle that has grown: more entities, longer histories, knowledge of the new; the same model.

Weights, codes of features and what is stored of all other entities stay as they are. Entities that
training did not know have no id embedding of their own, but the unknown one's, zero; features,
knowledge and histories are theirs (see `FeatureEmbedding.attach`).

Legend: G entities with new knowledge, C chunks, D width, I width of a prestored row.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from lorecast.artifacts import write_json
from lorecast.config import Side
from lorecast.encoding.vectors import CERTAINTY, HISTORY_END
from lorecast.errors import ArtifactError
from lorecast.lifecycle.bundle import PRESTORED, WEIGHTS, Bundle, BundleVectors
from lorecast.lifecycle.card import CARD, seal
from lorecast.lifecycle.check_rows import CHECK_ROWS
from lorecast.lifecycle.scorer import Scorer
from lorecast.lifecycle.texts import FILE as TEXTS
from lorecast.models.feature_tables import SideFeatures

_SIDES: tuple[Side, Side] = ("item", "user")
_BLOCK_ROWS = 1024
_CHECKED = 64
"""Users, and items, whose scores before and after are compared."""
_SAME = 1e-6


@dataclass(frozen=True, kw_only=True)
class NewKnowledge:
    """What was written and encoded about new and changed entities."""

    rows: Mapping[Side, NDArray[np.int32]]
    """Of each side; all that the bundle did not have are among them."""
    vectors: BundleVectors
    """Line g + 1 of a side is of its row g, line 0 of nobody."""
    history_end_G: NDArray[np.int32]
    """Of the users, how far the writer of their texts saw."""
    texts: pa.Table
    """As `texts` keeps them."""
    fingerprint: str


def write_refreshed(
    folder: Path,
    base: Bundle,
    tables: Mapping[Side, pa.Table],
    knowledge: NewKnowledge | None,
    *,
    changed_items: NDArray[np.int32],
    origin: Mapping[str, Any],
) -> None:
    """Writes the bundle of `base`'s model with these tables to `folder`, which is made anew.

    `knowledge`: none for a model without; `changed_items`: rows of `base` that say something else
    now; `origin`: what the card keeps of this refresh, behind earlier ones.
    """
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    shutil.copyfile(base.path / WEIGHTS, folder / WEIGHTS)
    for side, table in tables.items():
        pq.write_table(table, folder / f"{side}s.parquet")
    _write_check_rows(folder, base, changed_items)
    card = json.loads((base.path / CARD).read_text(encoding="utf-8"))
    card["entities"] = {side: table.num_rows for side, table in tables.items()}
    this = {**origin, "changed_items": changed_items.tolist()}
    card["refreshed"] = [*card.get("refreshed", ()), this]
    if knowledge is not None:
        prestored = _prestored(base, knowledge)
        for side, table in tables.items():
            arrays = _arrays(base, side, knowledge, prestored)
            _write_arrays(folder, base, arrays, knowledge.rows[side], table.num_rows + 1)
        if (base.path / TEXTS).exists():
            _write_texts(folder, base, knowledge)
        card["fingerprints"]["knowledge"] = knowledge.fingerprint
    seal(folder, card)


def check_refreshed(
    before: Scorer, after: Scorer, unchanged: Mapping[Side, NDArray[np.int32]]
) -> float:
    """The largest difference of scores among entities that are as they were, given by their rows.

    Raises ArtifactError beyond 1e-6, or if `after` does not know all its entities by their ids.
    """
    for side in _SIDES:
        ids = after.bundle.entities(side)["id"].to_pylist()
        if not np.array_equal(after.rows(side, ids), np.arange(1, len(ids) + 1)):
            raise ArtifactError(f"{after.bundle.path}: two of its {side}s have the same id")
    users, items = (_spread(unchanged[side]) for side in ("user", "item"))
    user_row_B, item_row_B = np.repeat(users, items.size), np.tile(items, users.size)
    was_B, is_B = (each.score_rows(user_row_B, item_row_B) for each in (before, after))
    difference = float(np.abs(is_B - was_B).max(initial=0.0))
    if difference > _SAME:
        raise ArtifactError(
            f"{after.bundle.path}: scores of entities that are as they were differ by "
            f"{difference:.1e} from those of {before.bundle.path}: this model cannot be refreshed; "
            "train one on the new tables with `lorecast run`"
        )
    return difference


def _spread(row_R: NDArray[np.int32]) -> NDArray[np.int32]:
    """Some of the rows, evenly."""
    place = np.unique(np.linspace(0, len(row_R), _CHECKED, endpoint=False, dtype=int))
    spread: NDArray[np.int32] = row_R[place[: len(row_R)]]
    return spread


def _write_check_rows(folder: Path, base: Bundle, changed_items: NDArray[np.int32]) -> None:
    """The rows in which no item changed."""
    path = base.path / CHECK_ROWS
    if not path.exists():
        return
    ids = {id_ for id_, _ in base.names("item", changed_items)} if changed_items.size else set()
    stored = json.loads(path.read_text(encoding="utf-8"))
    kept = [
        place
        for place, (item, history) in enumerate(
            zip(stored["item_ids"], stored["histories"], strict=True)
        )
        if ids.isdisjoint([item, *(seen for seen, _ in history)])
    ]
    if kept:
        lists = {name: [values[place] for place in kept] for name, values in stored.items()}
        write_json(folder / CHECK_ROWS, lists)


def _arrays(
    base: Bundle,
    side: Side,
    new: NewKnowledge,
    prestored: Mapping[Side, NDArray[np.float32]],
) -> dict[str, NDArray[Any]]:
    """What the files of one side get for the rows with new knowledge, by name."""
    assert base.knowledge is not None, "there is new knowledge"
    if side not in base.knowledge.sides:
        return {}
    arrays: dict[str, NDArray[Any]] = {f"{side}_mask.npy": new.vectors.mask(side)[1:]}
    if base.prestored:
        arrays[PRESTORED.format(side)] = prestored[side]
    else:
        arrays[f"{side}.npy"] = new.vectors.vectors(side)[1:]
        certainty = new.vectors.certainty(side)
        if certainty is not None:
            arrays[CERTAINTY.format(side)] = certainty[1:]
    if side == "user":
        arrays[HISTORY_END] = new.history_end_G
    return arrays


def _write_arrays(
    folder: Path,
    base: Bundle,
    arrays: Mapping[str, NDArray[Any]],
    row_G: NDArray[np.int32],
    num_rows: int,
) -> None:
    """The base's arrays with `num_rows` rows, these among them; older bundles lack some."""
    create: Any = np.lib.format.open_memmap
    for name, value_G in arrays.items():
        if not (base.path / name).exists():
            continue
        before = np.load(base.path / name, mmap_mode="r", allow_pickle=False)
        after = create(folder / name, "w+", before.dtype, (num_rows, *before.shape[1:]))
        for start in range(0, len(before), _BLOCK_ROWS):
            block = before[start : start + _BLOCK_ROWS]
            after[start : start + len(block)] = block
        after[row_G] = value_G
        after.flush()


@torch.inference_mode()
def _prestored(base: Bundle, new: NewKnowledge) -> dict[Side, NDArray[np.float32]]:
    """What the model's extractor makes of the entities by themselves: [G, I] of each side."""
    if not base.prestored:
        return {}
    items, users = (_featureless(base, side, len(new.rows[side]) + 1) for side in _SIDES)
    model = base.load_model(new.vectors, (items, users))
    made: dict[Side, NDArray[np.float32]] = {}
    for side, width in base.prestored.items():
        count = len(new.rows[side])
        made[side] = np.empty((count, width), np.float32)
        for start in range(0, count, _BLOCK_ROWS):
            stop = min(start + _BLOCK_ROWS, count)
            row_U = torch.arange(start + 1, stop + 1)
            made[side][start:stop] = model.entity_rows(side, row_U).numpy()
    return made


def _featureless(base: Bundle, side: Side, num_rows: int) -> SideFeatures:
    """Entities of which nothing is known: an extractor reads texts alone."""
    schema = base.schema
    return SideFeatures(
        np.zeros((num_rows, len(schema.features(side))), np.int32),
        {name: np.zeros((num_rows, 1), np.int32) for name in schema.multi(side)},
        np.zeros((num_rows, len(schema.numeric(side))), np.float32),
    )


def _write_texts(folder: Path, base: Bundle, new: NewKnowledge) -> None:
    """The base's texts but those about entities with new knowledge, then the new ones."""
    file = pq.ParquetFile(base.path / TEXTS)
    with pq.ParquetWriter(folder / TEXTS, file.schema_arrow, compression="zstd") as writer:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            told = [
                pc.and_(pc.equal(table["side"], side), pc.is_in(table["row"], pa.array(row_G)))
                for side, row_G in new.rows.items()
            ]
            writer.write_table(table.filter(pc.invert(pc.or_(*told))))
        writer.write_table(new.texts.cast(file.schema_arrow))
