"""What `lorecast score` reads: a table of pairs, or one of candidates."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from lorecast.config import ExperimentConfig
from lorecast.data import parsing
from lorecast.data.files import TableFiles
from lorecast.errors import ConfigError, InputError
from lorecast.jobs.console import Console
from lorecast.lifecycle.card import BundleCard
from lorecast.lifecycle.offline import ROWS_AT_ONCE, PairColumns


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be scored: the pairs of a table, or every user's `top`."""

    pairs: Path | None = None
    top: int | None = None
    items: Path | None = None
    """A table with the candidates of `top`; none: all items of the model."""
    columns: PairColumns

    def check(self) -> None:
        """Raises ConfigError unless it says one thing."""
        if (self.pairs is None) == (self.top is None):
            raise ConfigError(
                "say what to score: --pairs FILE with ids of users and items, or --top K for every "
                "user's best items"
            )
        if self.items is not None and self.top is None:
            raise ConfigError("--items lists the candidates of --top: give --top K as well")

    def files(self) -> TableFiles | None:
        """The table it reads, with the columns that it must have. Raises InputError."""
        path = self.pairs or self.items
        if path is None:
            return None
        files = TableFiles.find(Path(), str(path))
        needed = (self.columns.item,) if self.items else (self.columns.user, self.columns.item)
        files.require(needed, "--user-column and --item-column")
        kinds = files.column_types()
        for other in files.paths[1:]:
            of_other = TableFiles(paths=(other,), csv=files.csv).column_types()
            for name in needed:
                if of_other[name] != kinds[name]:
                    raise InputError(
                        f"{other}: column {name!r} is {of_other[name]}, and in {files.paths[0]} it "
                        f"is {kinds[name]}: write all files with one type"
                    )
        return files


def columns_of(config: ExperimentConfig, user: str | None, item: str | None) -> PairColumns:
    """What a table calls its ids: as said, else as the experiment's clicks do."""
    clicks, item_id = config.dataset.interactions, "item_id"
    if config.dataset.source == "movielens":
        item_id = "movie_id"
    return PairColumns(
        user=user or (clicks.user if clicks else "user_id"),
        item=item or (clicks.item if clicks else item_id),
    )


class Reading:
    """A table of pairs, in pieces."""

    def __init__(
        self, files: TableFiles, columns: PairColumns, bundle: BundleCard, console: Console
    ) -> None:
        self._files = files
        known = files.column_types()
        contexts = [name for name in bundle.contexts if name in known]
        self._columns = [columns.user, columns.item, *contexts]
        self.num_malformed = 0
        """Lines of CSV files with a wrong number of fields, left out."""
        if absent := [name for name in bundle.contexts if name not in known]:
            console.note(f"{files} has no {', '.join(absent)}: unknown in all rows")

    def tables(self) -> Iterator[pa.Table]:
        """Of at most about ROWS_AT_ONCE rows each, in the order of the files."""
        for fragment in self._files.fragments(ROWS_AT_ONCE):
            for chunk in self._files.scan(fragment, self._columns, ROWS_AT_ONCE):
                self.num_malformed += len(chunk.malformed)
                yield chunk.table


def candidates(files: TableFiles | None, columns: PairColumns, bundle: BundleCard) -> pa.Array:
    """Ids of items in the table's order, each once; without a table all the model's."""
    if files is None:
        return bundle.entities("item")["id"].combine_chunks()
    try:
        found = parsing.ids(files.read([columns.item]).table[columns.item])
    except TypeError as error:
        raise InputError(f"{files}: column {columns.item!r}: expected {error}") from None
    distinct = found.drop_null().unique()
    if not len(distinct):
        raise InputError(f"{files}: column {columns.item!r} holds no id")
    return distinct
