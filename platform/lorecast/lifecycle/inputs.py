"""What a model looks at, by name, and the same model with one of these inputs hidden.

An input is named `context device`, `item feature genre`, `user feature age`, `item knowledge` or
`user knowledge`. Hidden, a feature is unknown for all entities, and knowledge missing for all.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lorecast.config import Side
from lorecast.data.dataset import FeatureSchema
from lorecast.lifecycle.bundle import Bundle, BundleVectors
from lorecast.lifecycle.card import BundleCard, loading
from lorecast.lifecycle.click_scorer import ClickScorer
from lorecast.lifecycle.pairs import Requests
from lorecast.lifecycle.scorer import Scorer, Scores
from lorecast.models.feature_tables import SideFeatures, feature_tables
from lorecast.models.knowledge import ChunkVectors
from lorecast.models.prestored import EntityTables

_SIDES: tuple[Side, Side] = ("item", "user")


class Input(NamedTuple):
    """One input."""

    kind: str
    """context, feature or knowledge."""
    side: Side | None
    name: str

    def __str__(self) -> str:
        return " ".join(word for word in (self.side, self.kind, self.name) if word)


def features_of(schema: FeatureSchema) -> Iterator[Input]:
    """Contexts, and the features of both sides, of any form."""
    for name in schema.context:
        yield Input("context", None, name)
    for side in _SIDES:
        for name in (*schema.features(side), *schema.multi(side), *schema.numeric(side)):
            yield Input("feature", side, name)


def inputs_of(bundle: BundleCard) -> tuple[Input, ...]:
    """All inputs of a click model; of another kind none is known by name."""
    if not isinstance(bundle, Bundle):
        return ()
    sides = bundle.knowledge.sides if bundle.knowledge else ()
    knowledge = (Input("knowledge", side, "") for side in sides)
    return (*features_of(bundle.schema), *knowledge)


def scores_without(scorer: Scorer, hidden: Input, requests: Requests) -> Scores:
    """The scores of a click model that does not see this input.

    Prestored rows keep what the extractor made of a hidden feature.
    """
    if hidden.kind == "context":
        return requests.without_context(hidden.name).scores(scorer)
    bundle = Bundle.open(scorer.bundle.path)
    with loading(bundle.path):
        knowledge: ChunkVectors | EntityTables | None = bundle.open_knowledge()
        model = bundle.load_model(knowledge)
        if hidden.kind == "knowledge" and hidden.side is not None:
            knowledge = _without_texts(bundle, hidden.side)
        items, users = feature_tables(bundle)
        if hidden.kind == "feature":
            schema = bundle.schema
            if hidden.side == "item":
                items = _without_feature(items, schema, "item", hidden.name)
            else:
                users = _without_feature(users, schema, "user", hidden.name)
        model.attach(items, users, knowledge)
    return requests.scores(ClickScorer(bundle, model))


def _without_feature(
    table: SideFeatures, schema: FeatureSchema, side: Side, name: str
) -> SideFeatures:
    codes, numbers = table.codes.copy(), table.numbers.copy()
    if name in schema.features(side):
        codes[:, list(schema.features(side)).index(name)] = 0
    if name in schema.numeric(side):
        numbers[:, schema.numeric(side).index(name)] = 0
    multi = {key: np.zeros_like(v) if key == name else v for key, v in table.multi.items()}
    return SideFeatures(codes, multi, numbers)


def _without_texts(bundle: Bundle, side: Side) -> ChunkVectors | EntityTables:
    knowledge = bundle.open_knowledge()
    assert knowledge is not None, "knowledge is an input of the bundle"
    if isinstance(knowledge, BundleVectors):
        return _Textless(knowledge, side)
    table = knowledge.tables[side]
    unknown = np.broadcast_to(table[:1], table.shape)  # row 0 is the entity without texts
    return EntityTables({**knowledge.tables, side: unknown})


@dataclass(frozen=True)
class _Textless:
    """A bundle's vectors, of which one side's count for nothing."""

    _all: BundleVectors
    _hidden: Side

    def vectors(self, side: Side) -> NDArray[np.float16]:
        return self._all.vectors(side)

    def mask(self, side: Side) -> NDArray[np.bool_]:
        mask = self._all.mask(side)
        return np.zeros_like(mask) if side == self._hidden else mask

    def certainty(self, side: Side) -> NDArray[np.float16] | None:
        return self._all.certainty(side)
