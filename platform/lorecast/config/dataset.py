"""Which interactions, and how they become samples."""

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, model_validator

from lorecast.config.section import EXECUTION, Fraction, Positive, Section

_Part = Literal["train", "valid", "test"]


class ListColumn(Section):
    """A column with several values a row. In YAML the name alone is enough for a list column."""

    column: str = Field(description="its name; a plain NAME is short for {column: NAME}")
    separator: str | None = Field(
        None, min_length=1, description="what parts the values of a text column; none: a list"
    )

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"column": value}
        if not isinstance(value, (dict, ListColumn)):
            raise ValueError("give a column's name, or {column: NAME, separator: '|'}")
        return value


class InteractionColumns(Section):
    """Where the clicks are and what their columns are called."""

    file: str | tuple[str, ...] = Field(
        min_length=1,
        description="Parquet or CSV file, a list of such files, or a folder of them, below "
        "dataset.path",
    )
    user: str = Field("user_id", description="column of the user's id (string or integer)")
    item: str = Field("item_id", description="column of the item's id (string or integer)")
    label: str | None = Field(None, description="column of the 0/1 label; else give `rating`")
    rating: str | None = Field(None, description="column of the rating, cut by positive_rating")
    timestamp: str = Field("timestamp", description="column of the time: seconds or a timestamp")
    order: str | None = Field(
        None, description="column with each row's rank inside its user; default: the timestamp"
    )
    history: ListColumn | None = Field(
        None,
        description="column with the user's items before each row, oldest first; default: the "
        "user's rows before",
    )
    context: tuple[str, ...] = Field(
        (), description="categorical columns about the moment, e.g. device or hour"
    )

    def identity(self) -> dict[str, Any]:
        """Without the keys that say nothing, so that older datasets stay what they are."""
        return _without_empty(super().identity(), "history", "context")


class EntityColumns(Section):
    """Where users or items are described."""

    file: str = Field(description="Parquet or CSV file below dataset.path")
    id: str = Field(description="column of the id, the same ids as in the interactions")
    title: str | None = Field(None, description="column with the name shown to the LLM (items)")
    text: tuple[str, ...] = Field((), description="further columns that prompts may show")
    features: tuple[str, ...] = Field(
        (), description="categorical columns that the click model embeds"
    )
    multi: tuple[ListColumn, ...] = Field(
        (), description="the same with several values a row, e.g. genres"
    )
    multi_max: Positive = Field(8, description="values of a row that count, the first ones (multi)")
    numeric: tuple[str, ...] = Field(
        (), description="columns of numbers for the click model, scaled by their spread in training"
    )

    def identity(self) -> dict[str, Any]:
        """Without the keys that say nothing, so that older datasets stay what they are."""
        identity = _without_empty(super().identity(), "multi", "numeric")
        if not self.multi:
            del identity["multi_max"]
        return identity


class SplitConfig(Section):
    """How samples are parted; there is always a validation part."""

    by: Literal["user", "time", "column"] = Field(
        "user",
        description="user: whole users; time: the latest samples; column: as a column says",
    )
    valid: Fraction = Field(0.1, description="share of users (user) or of samples (time)")
    test: Fraction = Field(0.1, description="share of users (user) or of samples (time)")
    column: str | None = Field(
        None,
        description="interaction column with train, valid, test, or nothing for rows that only "
        "histories use (by: column)",
    )
    values: dict[_Part, Annotated[str, Field(coerce_numbers_to_str=True)]] = Field(
        {}, description="what the column calls train, valid and test (by: column); default: so"
    )
    seed: int = Field(0, description="seed of the shuffle of users (by: user)")

    def identity(self) -> dict[str, Any]:
        """Without `values` where the column's are the usual ones."""
        return _without_empty(super().identity(), "values")

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.by == "column" and self.column is None:
            raise ValueError("split.by is 'column': name it in split.column")
        if self.by != "column" and not (
            self.valid > 0 and self.test > 0 and self.valid + self.test < 1
        ):
            raise ValueError("split.valid and split.test must be above 0 and leave rows to train")
        distinct = set(self.values.values())
        if self.values and (self.by != "column" or len(distinct) < len(get_args(_Part))):
            raise ValueError(
                "split.values says what split.column (by: column) calls train, valid and test: "
                "give each of the three its own value"
            )
        return self


class DatasetConfig(Section):
    """Which interactions, and how they become samples."""

    source: Literal["world", "movielens", "tables"] = Field(
        "world", description="world: the embedded one; movielens: a folder; tables: your own"
    )
    path: Annotated[str | None, EXECUTION] = Field(
        None, description="folder with the tables (movielens, tables); content decides identity"
    )
    world_seed: int = Field(
        7, description="seed of the embedded world; its shipped LLM knows the world of seed 7"
    )
    interactions: InteractionColumns | None = Field(None, description="mapping (source: tables)")
    users: EntityColumns | None = Field(None, description="mapping (source: tables), optional")
    items: EntityColumns | None = Field(None, description="mapping (source: tables), optional")
    positive_rating: float = Field(4.0, description="label is 1 from this rating on")
    history_length: Positive = Field(10, description="interactions before the sample, L")
    prefix_share: Fraction = Field(
        0.5, description="share of a user's interactions, the earliest, that prompts may show"
    )
    prefix_max: int = Field(30, ge=0, description="at most so many of them, in interactions")
    split: SplitConfig = Field(SplitConfig(), description="train, valid and test")
    max_bad_rows: Annotated[Fraction, EXECUTION] = Field(
        0.01, description="share of rejected rows of a table that stops the run"
    )

    @model_validator(mode="after")
    def _source_is_described(self) -> Self:
        if self.source == "tables" and self.interactions is None:
            raise ValueError("source is 'tables': describe the clicks in dataset.interactions")
        if self.source != "tables" and (self.interactions or self.users or self.items):
            raise ValueError(
                f"source is {self.source!r}, whose columns are known: "
                "interactions, users and items are mapped for source 'tables' only"
            )
        return self


def _without_empty(identity: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in identity.items() if value or key not in keys}
