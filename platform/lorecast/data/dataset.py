"""The prepared dataset: what `prepare` wrote, opened for reading."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lorecast.artifacts import Artifact
from lorecast.config import Side
from lorecast.data.layout import FEATURE_PREFIX, ITEMS, STAGE, USERS, VOCABULARIES
from lorecast.errors import ArtifactError


@dataclass(frozen=True, kw_only=True)
class FeatureSchema:
    """Sizes of everything a click model embeds.

    Cardinalities count known values: valid codes run from 0 (unknown) to the cardinality. Rows run
    from 0 (padding, unknown) to num_items or num_users, rating levels from 0 (padding).
    """

    item_features: dict[str, int]
    user_features: dict[str, int]
    num_items: int
    num_users: int
    num_rating_levels: int


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Integers and texts of one experiment; see `layout` for the files."""

    path: Path
    fingerprint: str
    history_length: int
    schema: FeatureSchema
    vocabularies: Mapping[Side, Mapping[str, tuple[str, ...]]]
    """Values per feature of each side; the code of a value is its index + 1."""
    rating_levels: tuple[float, ...]
    """Ascending; the code of a level is its index + 1."""
    rates_histories: bool
    """False: a column gives the histories, without ratings."""
    text_columns: Mapping[Side, tuple[str, ...]]
    """Columns of the entity tables that prompts may show, beside the items' title."""

    @classmethod
    def open(cls, path: Path) -> "Dataset":
        """The dataset in `path`. Raises ArtifactError if it is unfinished or something else."""
        artifact = Artifact.open(path)
        if artifact.manifest["stage"] != STAGE:
            raise ArtifactError(
                f"{path} is an output of `{artifact.manifest['stage']}`, not of `{STAGE}`"
            )
        vocabularies = json.loads((path / VOCABULARIES).read_text(encoding="utf-8"))
        return cls(
            path=path,
            fingerprint=artifact.fingerprint,
            history_length=artifact.facts["history_length"],
            schema=FeatureSchema(
                item_features={name: len(v) for name, v in vocabularies["item"].items()},
                user_features={name: len(v) for name, v in vocabularies["user"].items()},
                num_items=pq.read_metadata(path / ITEMS).num_rows,
                num_users=pq.read_metadata(path / USERS).num_rows,
                num_rating_levels=len(vocabularies["rating"]),
            ),
            vocabularies={
                "user": {name: tuple(v) for name, v in vocabularies["user"].items()},
                "item": {name: tuple(v) for name, v in vocabularies["item"].items()},
            },
            rating_levels=tuple(vocabularies["rating"]),
            rates_histories=artifact.facts.get("rates_histories", True),
            text_columns={
                side: tuple(names) for side, names in artifact.facts["text_columns"].items()
            },
        )

    def items(self) -> pa.Table:
        """All items in row order; line i is row i + 1."""
        return pq.read_table(self.path / ITEMS)

    def users(self) -> pa.Table:
        """All users in row order; line i is row i + 1."""
        return pq.read_table(self.path / USERS)

    def feature_codes(self, side: Side) -> NDArray[np.int32]:
        """Codes by row and feature, features in the order of the schema: [rows + 1, A]."""
        names = list(self.vocabularies[side])
        columns = [FEATURE_PREFIX + name for name in names]
        table = pq.read_table(self.path / (ITEMS if side == "item" else USERS), columns=columns)
        num_rows = self.schema.num_items if side == "item" else self.schema.num_users
        codes = np.zeros((num_rows + 1, len(names)), np.int32)
        for place, column in enumerate(columns):
            codes[1:, place] = table[column].to_numpy()
        return codes

    def history_end(self) -> NDArray[np.int32]:
        """Per user row, the position of the last interaction prompts may show; -1: none."""
        ends = np.full(self.schema.num_users + 1, -1, np.int32)
        ends[1:] = pq.read_table(self.path / USERS, columns=["history_end"])[0].to_numpy()
        return ends
