"""The prepared dataset: what `prepare` wrote, opened for reading."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lorecast.artifacts import Artifact
from lorecast.config import Side
from lorecast.data import features
from lorecast.data.layout import ITEMS, STAGE, USERS, VOCABULARIES
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
    item_multi: dict[str, int] = field(default_factory=dict)
    """Features with several values a row, likewise."""
    user_multi: dict[str, int] = field(default_factory=dict)
    item_numeric: tuple[str, ...] = ()
    """Names of features that are numbers."""
    user_numeric: tuple[str, ...] = ()
    context: dict[str, int] = field(default_factory=dict)
    """Categories of the moment, likewise."""

    @classmethod
    def from_dict(cls, sizes: Mapping[str, Any]) -> "FeatureSchema":
        """What `dataclasses.asdict` and JSON made of a schema; older ones lack fields."""
        names = {key: tuple(sizes.get(key, ())) for key in ("item_numeric", "user_numeric")}
        return cls(**{**sizes, **names})

    def features(self, side: Side) -> dict[str, int]:
        """Cardinalities of a side's features."""
        return self.item_features if side == "item" else self.user_features

    def multi(self, side: Side) -> dict[str, int]:
        """Cardinalities of a side's multi-valued features."""
        return self.item_multi if side == "item" else self.user_multi

    def numeric(self, side: Side) -> tuple[str, ...]:
        """Names of a side's numbers."""
        return self.item_numeric if side == "item" else self.user_numeric


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Integers and texts of one experiment; see `layout` for the files."""

    path: Path
    fingerprint: str
    history_length: int
    schema: FeatureSchema
    vocabularies: Mapping[Side, Mapping[str, tuple[str, ...]]]
    """Values per feature of each side; the code of a value is its index + 1."""
    contexts: Mapping[str, tuple[str, ...]]
    """Values per context feature, likewise."""
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
        multi = vocabularies.get("multi", {"item": {}, "user": {}})
        scales = vocabularies.get("numeric", {"item": {}, "user": {}})
        contexts = vocabularies.get("context", {})
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
                item_multi={name: len(v) for name, v in multi["item"].items()},
                user_multi={name: len(v) for name, v in multi["user"].items()},
                item_numeric=tuple(scales["item"]),
                user_numeric=tuple(scales["user"]),
                context={name: len(v) for name, v in contexts.items()},
            ),
            vocabularies={
                "user": {name: tuple(v) for name, v in vocabularies["user"].items()},
                "item": {name: tuple(v) for name, v in vocabularies["item"].items()},
            },
            contexts={name: tuple(v) for name, v in contexts.items()},
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
        names = self.schema.features(side)
        return features.feature_codes(self._features(side, features.FEATURE_PREFIX, names), names)

    def multi_codes(self, side: Side) -> dict[str, NDArray[np.int32]]:
        """Codes of multi-valued features by row, 0 behind the last: name → [rows + 1, W]."""
        names = self.schema.multi(side)
        return features.multi_codes(self._features(side, features.MULTI_PREFIX, names), names)

    def numeric(self, side: Side) -> NDArray[np.float32]:
        """Standardised numbers by row and feature, 0 where missing: [rows + 1, K]."""
        names = self.schema.numeric(side)
        return features.numbers(self._features(side, features.NUMERIC_PREFIX, names), names)

    def history_end(self) -> NDArray[np.int32]:
        """Per user row, the position of the last interaction prompts may show; -1: none."""
        ends = np.full(self.schema.num_users + 1, -1, np.int32)
        ends[1:] = pq.read_table(self.path / USERS, columns=["history_end"])[0].to_numpy()
        return ends

    def _features(self, side: Side, prefix: str, names: Iterable[str]) -> pa.Table:
        columns = ["id", *(prefix + name for name in names)]
        return pq.read_table(self.path / (ITEMS if side == "item" else USERS), columns=columns)
