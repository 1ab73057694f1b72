"""What to ask: every entity × generated field × factor, as prompts with their keys.

Prompts are made in blocks, entity by entity, so that memory does not grow with the catalogue and
neighbours share a long beginning (one user's history, then seven questions), which the engine
caches.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from lorecast.config import ExperimentConfig, GeneratedField, Side
from lorecast.data.dataset import Dataset
from lorecast.errors import ConfigError
from lorecast.knowledge.factors import FactorSet, load_factor_set
from lorecast.knowledge.store import KeyMaker

SCHEMA: Final = pa.schema(
    [
        ("key", pa.string()),
        ("side", pa.string()),
        ("row", pa.int32()),
        ("id", pa.string()),
        ("field", pa.string()),
        ("factor", pa.string()),
        ("chunk", pa.int32()),
        ("history_end", pa.int32()),
        ("chat", pa.string()),
    ]
)
"""chat: the messages as JSON."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One generated field: its factor set, and the factors that are asked."""

    field: str
    side: Side
    factor_set: FactorSet
    factors: tuple[str, ...]


def questions(fields: Sequence[object]) -> tuple[Question, ...]:
    """The generated ones among the fields of an experiment.

    Raises InputError for a broken factor set and ConfigError for a factor that it does not have.
    """
    return tuple(_question(field) for field in fields if isinstance(field, GeneratedField))


def _question(field: GeneratedField) -> Question:
    factor_set = load_factor_set(field.factor_set)
    known = [factor.name for factor in factor_set.factors(field.side)]
    for factor in field.factors:
        if factor not in known:
            raise ConfigError(
                f"knowledge field {field.name!r}: factor set {factor_set.name!r} has no "
                f"{field.side} factor {factor!r}; it has {', '.join(known)}"
            )
    return Question(
        field=field.name,
        side=field.side,
        factor_set=factor_set,
        factors=field.factors or tuple(known),
    )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All prompts of an experiment."""

    dataset: Dataset
    questions: tuple[Question, ...]
    keys: KeyMaker
    prompt_history: int
    """Rated titles a user prompt shows, the last before the cut-off."""
    liked_from: float
    """Ratings from here on make a title a liked one."""

    @classmethod
    def of(cls, config: ExperimentConfig, dataset: Dataset, model_digest: str) -> "Plan":
        """The plan of an experiment whose language model has this digest."""
        llm = config.knowledge.llm
        columns = config.dataset.interactions
        by_label = columns is not None and columns.rating is None
        return cls(
            dataset=dataset,
            questions=questions(config.knowledge.fields),
            keys=KeyMaker(
                model_digest,
                {
                    "temperature": llm.temperature,
                    "seed": llm.seed if llm.temperature > 0 else None,
                    "max_tokens": llm.max_tokens,
                    "dtype": llm.dtype,
                },
            ),
            prompt_history=config.knowledge.prompt_history,
            liked_from=1.0 if by_label else config.dataset.positive_rating,
        )

    @property
    def num_prompts(self) -> int:
        schema = self.dataset.schema
        entities = {"item": schema.num_items, "user": schema.num_users}
        return sum(len(question.factors) * entities[question.side] for question in self.questions)

    def blocks(self, entities_per_block: int = 256) -> Iterator[pa.Table]:
        """Tables of SCHEMA: items first, entities in row order, all their prompts together."""
        for side in ("item", "user"):
            asked = [question for question in self.questions if question.side == side]
            if not asked:
                continue
            entities = _items(self.dataset) if side == "item" else self._users()
            block: list[dict[str, Any]] = []
            for row, entity in enumerate(entities, 1):
                block += self._prompts(asked, row, entity)
                if row % entities_per_block == 0:
                    yield pa.Table.from_pylist(block, schema=SCHEMA)
                    block = []
            if block:
                yield pa.Table.from_pylist(block, schema=SCHEMA)

    def _prompts(
        self, asked: Sequence[Question], row: int, entity: "_Entity"
    ) -> Iterator[dict[str, Any]]:
        for question in asked:
            for chunk, factor in enumerate(question.factors):
                chat = question.factor_set.messages(question.side, factor, entity.variables)
                yield {
                    "key": self.keys.key(
                        side=question.side,
                        entity_id=entity.id,
                        field=question.field,
                        factor=factor,
                        history_end=entity.history_end,
                        chat=chat,
                    ),
                    "side": question.side,
                    "row": row,
                    "id": entity.id,
                    "field": question.field,
                    "factor": factor,
                    "chunk": chunk,
                    "history_end": entity.history_end,
                    "chat": json.dumps(chat, ensure_ascii=False),
                }

    def _users(self) -> Iterator["_Entity"]:
        dataset = self.dataset
        titles = dataset.items()["title"].to_pylist()
        levels = [int(level) if level == int(level) else level for level in dataset.rating_levels]
        shown = list(dataset.text_columns["user"])
        columns = ["id", *shown, "history_end", "prompt_item_rows", "prompt_ratings"]
        for user in _records(dataset.users().select(columns)):
            rated = zip(user["prompt_item_rows"], user["prompt_ratings"], strict=True)
            history = [
                {"title": titles[item_row - 1], "rating": levels[code - 1]}
                for item_row, code in list(rated)[-self.prompt_history :]
            ]
            liked = [seen["title"] for seen in history if seen["rating"] >= self.liked_from]
            disliked = [seen["title"] for seen in history if seen["rating"] < self.liked_from]
            yield _Entity(
                id=user["id"],
                history_end=user["history_end"],
                variables={
                    "user": {name: user[name] for name in shown},
                    "history": history,
                    "liked": liked,
                    "disliked": disliked,
                },
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entity:
    id: str
    history_end: int | None
    variables: Mapping[str, Any]


def _items(dataset: Dataset) -> Iterator[_Entity]:
    shown = ["title", *dataset.text_columns["item"]]
    for item in _records(dataset.items().select(["id", *shown])):
        variables = {"item": {name: item[name] for name in shown}}
        yield _Entity(id=item["id"], history_end=None, variables=variables)


def _records(table: pa.Table) -> Iterator[dict[str, Any]]:
    """The lines of a table as dictionaries, a few at a time."""
    for batch in table.to_batches(max_chunksize=1024):
        yield from batch.to_pylist()
