"""What to ask: every entity or group × generated field × factor, as prompts with their keys.

Prompts are made in blocks, entity by entity, so that memory does not grow with the catalogue and
neighbours share a long beginning (one user's history, then seven questions), which the engine
caches.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from lorecast.config import ExperimentConfig, GeneratedField, Side
from lorecast.data.dataset import Dataset
from lorecast.data.layout import ITEMS, USERS
from lorecast.errors import ConfigError
from lorecast.knowledge.factors import FactorSet, Role, answer_schema, load_factor_set
from lorecast.knowledge.groups import ALL_FACTORS, FieldGroups
from lorecast.knowledge.keys import KeyMaker, chat_json

SCHEMA: Final = pa.schema(
    [
        ("key", pa.string()),
        ("side", pa.string()),
        ("row", pa.int32()),
        ("group", pa.int32()),
        ("id", pa.string()),
        ("field", pa.string()),
        ("factor", pa.string()),
        ("chunk", pa.int32()),
        ("history_end", pa.int32()),
        ("chat", pa.string()),
        ("schema", pa.string()),
    ]
)
"""chat: the messages as JSON. schema: JSON schema of the answer, or null. row: the entity's, null
where a group is asked, and then group is its number. factor: ALL_FACTORS where one call asks for
all of a field."""
SIDES: Final[tuple[Side, Side]] = ("item", "user")
_BATCH_ROWS: Final = 1024


@dataclass(frozen=True, kw_only=True)
class Question:
    """One generated field: its factor set, and the factors that are asked."""

    config: GeneratedField
    factor_set: FactorSet
    factors: tuple[str, ...]

    @property
    def field(self) -> str:
        return self.config.name

    @property
    def side(self) -> Side:
        return self.config.side

    @property
    def is_collective(self) -> bool:
        return self.config.extraction == "collective"

    @property
    def roles(self) -> tuple[Role, ...]:
        """The templates that it uses."""
        group: Role = "item_group" if self.side == "item" else "user_group"
        if not self.is_collective:
            return (self.side,)
        return (group, self.side) if self.config.collective.head > 0 else (group,)

    @property
    def calls(self) -> int:
        """Calls an entity."""
        return len(self.factors) if self.config.answer == "factor" else 1

    @cached_property
    def schema(self) -> str | None:
        """JSON schema of an answer."""
        return answer_schema(self.factors) if self.config.answer == "json" else None


def questions(fields: Sequence[object]) -> tuple[Question, ...]:
    """The generated ones among the fields of an experiment.

    Raises InputError for a broken factor set, KnowledgeError for a missing template and ConfigError
    for a factor that the set does not have.
    """
    return tuple(_question(field) for field in fields if isinstance(field, GeneratedField))


def _question(config: GeneratedField) -> Question:
    factor_set = load_factor_set(config.factor_set)
    known = [factor.name for factor in factor_set.factors(config.side)]
    for factor in config.factors:
        if factor not in known:
            raise ConfigError(
                f"knowledge field {config.name!r}: factor set {factor_set.name!r} has no "
                f"{config.side} factor {factor!r}; it has {', '.join(known)}"
            )
    factors = config.factors or tuple(known)
    question = Question(config=config, factor_set=factor_set, factors=factors)
    factor_set.role_digest(question.roles, factors)  # raises if a template is missing
    return question


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
    groups: Mapping[str, FieldGroups] = field(default_factory=dict)
    """Of the collective fields, by name."""

    @classmethod
    def of(
        cls,
        config: ExperimentConfig,
        dataset: Dataset,
        model_digest: str,
        groups: Mapping[str, FieldGroups] | None = None,
    ) -> "Plan":
        """The plan of an experiment whose language model has this digest."""
        llm = config.knowledge.llm
        sampling = {
            "temperature": llm.temperature,
            "seed": llm.seed if llm.temperature > 0 else None,
            "max_tokens": llm.max_tokens,
            "dtype": llm.dtype,
        }
        if llm.temperature > 0 and llm.top_p < 1:
            sampling["top_p"] = llm.top_p
        if llm.certainty:
            sampling["certainty"] = True
        return cls(
            dataset=dataset,
            questions=questions(config.knowledge.fields),
            keys=KeyMaker(model_digest, sampling),
            prompt_history=config.knowledge.prompt_history,
            liked_from=liked_from(config),
            groups=groups or {},
        )

    @property
    def num_prompts(self) -> int:
        return sum(self.num_calls(question) for question in self.questions)

    def num_calls(self, question: Question) -> int:
        """Calls of one field."""
        if question.is_collective:
            groups = self.groups[question.field]
            num_head = int(next(iter(groups.values())).is_head.sum())
            of_groups = sum(
                len(of_factor.prompts) * (question.calls if factor == ALL_FACTORS else 1)
                for factor, of_factor in groups.items()
            )
            return of_groups + num_head * question.calls
        schema = self.dataset.schema
        num_entities = schema.num_items if question.side == "item" else schema.num_users
        return num_entities * question.calls

    def blocks(self, entities_per_block: int = 256) -> Iterator[pa.Table]:
        """Tables of SCHEMA: items first, entities in row order, all their prompts together; the
        prompts of a side's groups before those of its entities."""
        for side in SIDES:
            asked = [question for question in self.questions if question.side == side]
            block = _Block()
            for question in asked:
                for factor, groups in self.groups.get(question.field, {}).items():
                    factors = question.factors if factor == ALL_FACTORS else (factor,)
                    for number, variables in enumerate(groups.prompts):
                        self._ask(block, question, _group(number, variables), factors)
            if any(side in question.roles for question in asked):
                entities = self._items() if side == "item" else self._users()
                for row, entity in enumerate(entities, 1):
                    for question in asked:
                        if self._is_individual(question, row):
                            self._ask(block, question, entity, question.factors, row)
                    if row % entities_per_block == 0 and block:
                        yield block.table()
                        block = _Block()
            if block:
                yield block.table()

    def about(self, side: Side, rows: Collection[int]) -> pa.Table:
        """The prompts of some entities of one side, each by itself, as SCHEMA; at least one field
        asks so."""
        asked = [question for question in self.questions if question.side == side]
        block = _Block()
        for row, entity in enumerate(self._items() if side == "item" else self._users(), 1):
            for question in asked if row in rows else ():
                self._ask(block, question, entity, question.factors, row)
        return block.table()

    def _is_individual(self, question: Question, row: int) -> bool:
        if not question.is_collective:
            return True
        [groups, *_] = self.groups[question.field].values()
        return bool(groups.is_head[row - 1])

    def _ask(
        self,
        block: "_Block",
        question: Question,
        about: "_About",
        factors: Sequence[str],
        row: int | None = None,
    ) -> None:
        """Adds the prompts of one entity or group for these factors."""
        role, answer = question.roles[0 if about.group is not None else -1], question.config.answer
        if answer == "factor":
            for factor in factors:
                chunk = question.factors.index(factor)
                chat = question.factor_set.messages(role, factor, about.variables)
                self._add(block, question, about, row, factor, chunk, chat_json(chat))
            return
        chat = question.factor_set.joint_messages(role, question.factors, about.variables, answer)
        self._add(block, question, about, row, ALL_FACTORS, 0, chat_json(chat))

    def _add(
        self,
        block: "_Block",
        question: Question,
        about: "_About",
        row: int | None,
        factor: str,
        chunk: int,
        chat: str,
    ) -> None:
        key = self.keys.key(
            side=question.side,
            entity_id=about.id,
            field=question.field,
            factor=factor,
            history_end=about.history_end,
            chat=chat,
            schema=question.schema,
        )
        block.lines.append(
            (
                key,
                question.side,
                row,
                about.group,
                about.id,
                question.field,
                factor,
                chunk,
                about.history_end,
                chat,
                question.schema,
            )
        )

    def _items(self) -> Iterator["_About"]:
        shown = ["title", *self.dataset.text_columns["item"]]
        for item in _records(self.dataset, ITEMS, ["id", *shown]):
            variables = {"item": {name: item[name] for name in shown}}
            yield _About(id=item["id"], history_end=None, variables=variables)

    def _users(self) -> Iterator["_About"]:
        dataset = self.dataset
        titles = dataset.items()["title"].to_pylist()
        levels = [int(level) if level == int(level) else level for level in dataset.rating_levels]
        shown = list(dataset.text_columns["user"])
        columns = ["id", *shown, "history_end", "prompt_item_rows", "prompt_ratings"]
        for user in _records(dataset, USERS, columns):
            rated = zip(user["prompt_item_rows"], user["prompt_ratings"], strict=True)
            history = [
                {"title": titles[item_row - 1], "rating": levels[code - 1]}
                for item_row, code in list(rated)[-self.prompt_history :]
            ]
            liked = [seen["title"] for seen in history if seen["rating"] >= self.liked_from]
            disliked = [seen["title"] for seen in history if seen["rating"] < self.liked_from]
            yield _About(
                id=user["id"],
                history_end=user["history_end"],
                variables={
                    "user": {name: user[name] for name in shown},
                    "history": history,
                    "liked": liked,
                    "disliked": disliked,
                },
            )


def liked_from(config: ExperimentConfig) -> float:
    """The rating from which a title counts as liked; labels are ratings of 0 and 1."""
    columns = config.dataset.interactions
    by_label = columns is not None and columns.rating is None
    return 1.0 if by_label else config.dataset.positive_rating


@dataclass(frozen=True, slots=True, kw_only=True)
class _About:
    """Whom a prompt is about: an entity, or a group and its number."""

    id: str
    history_end: int | None
    variables: Mapping[str, Any]
    group: int | None = None


@dataclass(frozen=True, slots=True)
class _Block:
    """Lines of SCHEMA in the making."""

    lines: list[tuple[object, ...]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.lines)

    def table(self) -> pa.Table:
        columns = zip(*self.lines, strict=True)
        arrays = [pa.array(values, kind.type) for values, kind in zip(columns, SCHEMA, strict=True)]
        return pa.Table.from_arrays(arrays, schema=SCHEMA)


def _group(number: int, variables: Mapping[str, Any]) -> _About:
    return _About(
        id=f"group {number}", history_end=None, variables={"group": variables}, group=number
    )


def _records(dataset: Dataset, file: str, columns: list[str]) -> Iterator[dict[str, Any]]:
    """The lines of an entity table as dictionaries, a few at a time."""
    # Buffering ahead would hold the whole file.
    with pq.ParquetFile(dataset.path / file, pre_buffer=False) as table:
        for batch in table.iter_batches(_BATCH_ROWS, columns=columns):
            yield from batch.to_pylist()
