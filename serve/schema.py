"""What the endpoint takes and answers; the source of its OpenAPI document.

Requests are parsed straight from bytes by pydantic's JSON parser. Answers are built as plain
values: their models here describe, they do not run.
"""

from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictInt,
    StrictStr,
    WithJsonSchema,
)


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


_Integer = Annotated[StrictInt, BeforeValidator(_whole)]
"""JSON has one kind of number: 7.0 is an integer."""

Id = Annotated[
    StrictStr | StrictInt | _Integer,
    WithJsonSchema(
        {
            "anyOf": [{"type": "string"}, {"type": "integer"}],
            "description": "an id as in the tables; 7 means '7'",
        }
    ),
]
Count = Annotated[_Integer, Field(ge=1), WithJsonSchema({"type": "integer", "minimum": 1})]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class HistoryEntry(_Request):
    """One earlier interaction of the user."""

    item_id: Id
    rating: float | None = Field(
        None,
        strict=True,
        allow_inf_nan=False,
        description="within `rating_range` of /v1/model, where the nearest known level counts; not "
        "to be given if that is null",
    )


History = Annotated[
    list[HistoryEntry] | None,
    Field(
        description="the user's interactions, oldest first; the last `history_length` with known "
        "items count. Default: those in the model. [] means none."
    ),
]


Context = Annotated[
    dict[str, Id] | None,
    Field(
        description="what is known of the moment, by the names in `context` of /v1/model; a value "
        "that is new or not given counts as unknown"
    ),
]


class ScoreRequest(_Request):
    """Which items to score for which user."""

    user_id: Id
    item_ids: list[Id] = Field(min_length=1, description="candidates")
    history: History = None
    context: Context = None


class RankRequest(_Request):
    """How many of which items to rank for which user."""

    user_id: Id
    k: Count = Field(description="length of the ranking")
    item_ids: list[Id] | None = Field(
        None, min_length=1, description="candidates; default: all items of the model"
    )
    history: History = None
    context: Context = None


class Unknown(BaseModel):
    """Ids the model has never seen. Users and candidates among them are scored all the same."""

    user_ids: list[Id]
    item_ids: list[Id]
    history_item_ids: list[Id] = Field(description="skipped")
    context: list[str] = Field(description="names of contexts with a new value, likewise")


def _is_none(value: object) -> bool:
    return value is None


class _Answer(BaseModel):
    model_config = ConfigDict(protected_namespaces=())

    model_version: str = Field(description="NAME/NUMBER in the registry, or the bundle's digest")
    knowledge: str | None = Field(description="fingerprint of the knowledge behind; none without")
    arm: str | None = Field(
        None,
        exclude_if=_is_none,
        description="of `arms` in /v1/model, the one that answers; left out if there are none",
    )


class ScoreAnswer(_Answer):
    """Probabilities that the user clicks or likes."""

    scores: list[float] = Field(description="in the order of item_ids")
    unknown: Unknown


class RankedItem(BaseModel):
    """A place of a ranking."""

    item_id: Id
    score: float


class RankAnswer(_Answer):
    """The best candidates."""

    items: list[RankedItem] = Field(description="best first, at most k; equal scores keep order")
    unknown: Unknown


class FollowAnswer(BaseModel):
    """How the replica that answers follows the registry."""

    swaps: int = Field(description="versions that took over since it started")
    failures: int = Field(description="attempts to load another version that failed")
    trouble: str | None = Field(description="why the version that is wanted does not serve yet")


class ArmAnswer(BaseModel):
    """An arm of an experiment on users."""

    model_config = ConfigDict(protected_namespaces=())

    model_version: str
    reference: str | None = Field(description="the alias that is followed; null: a fixed version")
    share: float | None = Field(description="of the users, whom it answers; null: it is a shadow")
    shadow: float | None = Field(
        description="of the main model's requests, which it scores unseen; null: it answers"
    )
    follows: FollowAnswer | None = Field(description="as of the main model")


class ModelAnswer(_Answer):
    """What is being served."""

    kind: Literal["click", "sella"] = Field(
        description="a click model, or a language model that says Yes or No"
    )
    dataset: str = Field(description="fingerprint of the data it was trained on")
    strategy: str = Field(description="how it was trained; of kind sella: the method")
    num_users: int
    num_items: int
    history_length: int
    rating_range: list[float] | None = Field(
        description="lowest and highest a history must hold; null: it holds items alone"
    )
    context: list[str] = Field(description="what a request's `context` may name")
    max_items: int = Field(description="most candidates a request may hold")
    metrics: dict[str, dict[str, float]] = Field(description="by split")
    follows: FollowAnswer | None = Field(
        None, description="null: a fixed version, whatever the registry says"
    )
    arms: dict[str, ArmAnswer] | None = Field(
        None, exclude_if=_is_none, description="by name; all else here is of `main`"
    )


class HealthAnswer(_Answer):
    """Sent once the model is loaded."""

    status: Literal["ok"]


class ErrorAnswer(BaseModel):
    """Every answer from 400 up."""

    error: str = Field(description="one sentence")
