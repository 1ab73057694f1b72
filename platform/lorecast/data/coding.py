"""Entities that join after training, in a prepared dataset's codes: nothing is fitted again."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lorecast.config import Side
from lorecast.data.dataset import Dataset
from lorecast.data.entities import Entities, code_lists, codes
from lorecast.data.features import FEATURE_PREFIX, MULTI_PREFIX, NUMERIC_PREFIX
from lorecast.data.layout import VOCABULARIES
from lorecast.data.scaling import Scale


@dataclass(frozen=True, kw_only=True)
class Coding:
    """How a dataset turns one side's features into numbers."""

    features: Mapping[str, Sequence[str]]
    multi: Mapping[str, Sequence[str]]
    """Of features with several values."""
    scales: Mapping[str, Scale]

    @classmethod
    def of(cls, dataset: Dataset, side: Side) -> Self:
        """The coding that `prepare` wrote."""
        stored: dict[str, Any] = json.loads(
            (dataset.path / VOCABULARIES).read_text(encoding="utf-8")
        )
        scales = stored.get("numeric", {}).get(side, {})
        return cls(
            features=stored[side],
            multi=stored.get("multi", {}).get(side, {}),
            scales={name: Scale(**scale) for name, scale in scales.items()},
        )

    def columns(self, entities: Entities, schema: pa.Schema) -> dict[str, pa.Array]:
        """The columns of `features` for these entities, of the types in `schema`.

        A value that training did not know has code 0, as a missing one; of several values those
        beyond the dataset's width are left out; a missing number is the mean.
        """
        found: dict[str, pa.Array] = {}
        for name, vocabulary in self.features.items():
            found[FEATURE_PREFIX + name] = codes(entities.features[name], vocabulary)
        for name, vocabulary in self.multi.items():
            width = schema.field(MULTI_PREFIX + name).type.list_size
            lists = pc.list_slice(entities.multi[name], 0, width)
            found[MULTI_PREFIX + name] = code_lists(lists, vocabulary, width)
        for name, scale in self.scales.items():
            number_N = entities.numeric[name].to_numpy(zero_copy_only=False)
            scaled_N = np.nan_to_num((number_N - scale.mean) / scale.std)
            found[NUMERIC_PREFIX + name] = pa.array(scaled_N.astype(np.float32))
        return found

    def unknown(self, entities: Entities) -> Counter[str]:
        """By feature, how many of its values training did not know."""
        values = {
            **{name: (entities.features[name], known) for name, known in self.features.items()},
            **{name: (entities.multi[name].flatten(), known) for name, known in self.multi.items()},
        }
        return +Counter(
            {
                name: int((codes(given.drop_null(), known).to_numpy() == 0).sum())
                for name, (given, known) in values.items()
            }
        )
