"""What `lorecast refresh` reads: new clicks, and new or changed users and items.

Tables have the columns of the experiment's own. Rows that cannot be used are set aside as `prepare`
does, and stop the command above `dataset.max_bad_rows`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lorecast.artifacts import fingerprint_files
from lorecast.config import (
    EntityColumns,
    ExperimentConfig,
    InteractionColumns,
    Side,
    SplitConfig,
)
from lorecast.data.coding import Coding
from lorecast.data.dataset import Dataset
from lorecast.data.entities import Entities, known_only_by_id, read_entities
from lorecast.data.files import TableFiles
from lorecast.data.growth import Joined, join, later_clicks
from lorecast.data.histories import Timelines, timelines
from lorecast.data.interactions import InteractionRules, check
from lorecast.data.layout import REJECTED
from lorecast.data.preparation import mentioned_ids
from lorecast.data.rejected import summarise
from lorecast.errors import ConfigError, InputError
from lorecast.jobs.console import Console
from lorecast.jobs.prepare import check_rate
from lorecast.lifecycle.bundle import Bundle

_ROWS_AT_ONCE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class NewTables:
    """The files, or folders of them, that were named."""

    interactions: Path | None = None
    items: Path | None = None
    users: Path | None = None

    def of(self, side: Side) -> Path | None:
        return self.items if side == "item" else self.users

    def fingerprints(self) -> dict[str, str]:
        """Of the contents, by table. Raises ConfigError if none is named, InputError if one is not
        there."""
        named = {name: path for name, path in vars(self).items() if path is not None}
        if not named:
            raise ConfigError("say what is new: --interactions, --items or --users FILE")
        for name, path in named.items():
            if not path.exists():
                raise InputError(f"{path} (--{name}): there is no such file or folder")
        return {name: fingerprint_files([path]) for name, path in named.items()}


@dataclass(frozen=True, kw_only=True)
class Reader:
    """Reads the tables of one refresh; rejected rows go to `folder`."""

    config: ExperimentConfig
    tables: NewTables
    bundle: Bundle
    dataset: Dataset
    folder: Path
    console: Console

    def joined(self, side: Side) -> Joined:
        """One side's table with who is new or changed: those of its file or, where the experiment
        has no such table, those that only the clicks mention."""
        base = self.bundle.entities(side)
        entities = self._entities(side, base["id"].combine_chunks())
        if entities is None:
            return Joined.nobody(base)
        coding = Coding.of(self.dataset, side)
        for name, count in coding.unknown(entities).items():
            self.console.note(
                f"{count:,} values of {name!r} ({side}s) were not known in training: they count as "
                "missing"
            )
        described = self.dataset.items() if side == "item" else self.dataset.users()
        before = [row for each in self.bundle.refreshed for row in each["changed_items"]]
        return join(base, described, entities, coding, side, before)

    def clicks(self, users: Joined, items: Joined) -> tuple[Timelines, dict[str, int]]:
        """The clicks that go on from the model's histories, by user and time; what was found."""
        if self.tables.interactions is None:
            return _no_clicks(), {"clicks": 0, "late_clicks": 0, "repeated_clicks": 0}
        accepted = self._accepted(users.ids, items.ids)
        rating = accepted["rating"].to_numpy()
        levels = np.asarray(self.bundle.rating_levels, np.float64)
        level_N = np.searchsorted((levels[1:] + levels[:-1]) / 2, rating) + 1
        column = {name: accepted[name].to_numpy() for name in ("user_row", "item_row", "timestamp")}
        order_N = accepted["order" if self._clicks[1].order else "timestamp"].to_numpy()
        later = later_clicks(users.table, column["user_row"], column["item_row"], order_N)
        kept = later.counts_N
        history_NL = None
        if self._clicks[1].history is not None:
            flat = accepted["history"].combine_chunks().flatten().to_numpy()
            history_NL = flat.reshape(accepted.num_rows, -1)[kept]
        lines = timelines(
            rank_N=column["user_row"][kept].astype(np.int64),
            order_N=order_N[kept],
            user_row_N=column["user_row"][kept],
            item_row_N=column["item_row"][kept],
            rating_N=level_N[kept].astype(np.int8),
            label_N=accepted["label"].to_numpy()[kept],
            timestamp_N=column["timestamp"][kept],
            part_N=np.zeros(int(kept.sum()), np.int8),
            history_NL=history_NL,
        )
        counts = {
            "clicks": int(kept.sum()),
            "late_clicks": int(later.is_late_N.sum()),
            "repeated_clicks": int(later.is_repeated_N.sum()),
        }
        self._tell(counts)
        return lines, counts

    def _tell(self, counts: dict[str, int]) -> None:
        if late := counts["late_clicks"]:
            self.console.note(
                f"{late:,} clicks are older than the model's history of their user, and are left "
                "out: `lorecast run` on all clicks takes them up"
            )
        if repeated := counts["repeated_clicks"]:
            self.console.note(f"{repeated:,} clicks are there twice or known already: left out")

    def _entities(self, side: Side, known: pa.Array) -> Entities | None:
        """None: nobody joins."""
        path, source = self.tables.of(side), self.config.dataset.source
        columns = self._entity_columns(side)
        if path is None and (columns is not None or self.tables.interactions is None):
            return None
        if path is None:
            names = self._clicks[1]
            mentioned = self._mentioned(names.user if side == "user" else names.item)
            new = mentioned.filter(pc.invert(pc.is_in(mentioned, value_set=known)))
            return known_only_by_id(new) if len(new) else None
        if columns is None:
            raise ConfigError(
                f"--{side}s: the experiment has no dataset.{side}s, so {side}s are those that the "
                f"clicks mention: leave --{side}s out"
            )
        if source == "movielens":
            from lorecast.data.movielens import movies, people

            entities = movies(path) if side == "item" else people(path)
        else:
            entities = read_entities(TableFiles.find(Path(), str(path)), side, columns)
        if entities.rejected is not None and entities.rejected.num_rows:
            self._set_aside([entities.rejected], f"{side}s", str(path), entities.num_read)
        return entities

    def _entity_columns(self, side: Side) -> EntityColumns | None:
        """None: the experiment has no such table."""
        dataset = self.config.dataset
        if dataset.source == "tables":
            return dataset.items if side == "item" else dataset.users
        if dataset.source == "movielens":
            from lorecast.data import movielens

            is_there = side == "item" or "gender" in self.dataset.text_columns["user"]
            columns = movielens.ITEM if side == "item" else movielens.USER
            return columns if is_there else None
        from lorecast.world import source

        return source.ITEM if side == "item" else source.USER

    @cached_property
    def _clicks(self) -> tuple[TableFiles, InteractionColumns]:
        """The file of clicks, and the columns that histories need."""
        dataset, path = self.config.dataset, self.tables.interactions
        assert path is not None, "there are clicks"
        if dataset.source == "movielens":
            from lorecast.data.movielens import ratings_files

            files, columns = ratings_files(path)
        elif dataset.source == "tables":
            assert dataset.interactions is not None
            files, columns = TableFiles.find(Path(), str(path)), dataset.interactions
        else:
            from lorecast.world.source import WorldSource

            files, columns = TableFiles.find(Path(), str(path)), WorldSource.columns
        unused: dict[str, object] = {"context": ()}
        if columns.rating is not None:
            unused["label"] = None
        return files, columns.model_copy(update=unused)

    @property
    def _rules(self) -> InteractionRules:
        config = self.config.dataset.model_copy(update={"split": SplitConfig()})
        return InteractionRules(columns=self._clicks[1], config=config)

    def _mentioned(self, column: str) -> pa.Array:
        files, _ = self._clicks
        found: set[str] = set()
        files.require([column], "dataset.interactions")
        for fragment in files.fragments(_ROWS_AT_ONCE):
            found.update(mentioned_ids(files, fragment, [column], _ROWS_AT_ONCE)[column])
        return pa.array(sorted(found), pa.string())

    def _accepted(self, user_ids: pa.Array, item_ids: pa.Array) -> pa.Table:
        """The usable clicks, as `InteractionRules.schema`."""
        (files, _), rules = self._clicks, self._rules
        files.require(rules.used, "dataset.interactions")
        accepted, rejected, num_read = [rules.schema().empty_table()], [], 0
        for fragment in files.fragments(_ROWS_AT_ONCE):
            for chunk in files.scan(fragment, rules.used, _ROWS_AT_ONCE):
                checked = check(chunk, str(fragment.path), rules, user_ids, item_ids)
                accepted.append(checked.accepted)
                rejected.append(checked.rejected)
                num_read += chunk.table.num_rows + len(chunk.malformed)
        self._set_aside(rejected, "interactions", str(files), num_read)
        return pa.concat_tables(accepted)

    def _set_aside(self, rejected: Sequence[pa.Table], name: str, file: str, num_read: int) -> None:
        table = pa.concat_tables(rejected) if rejected else None
        if table is None or not table.num_rows:
            return
        folder = self.folder / REJECTED
        folder.mkdir(exist_ok=True)
        pq.write_table(table, folder / f"part-{name}.parquet")
        check_rate(name, file, num_read, summarise(table), self.config.dataset, self.folder)
        self.console.note(f"{table.num_rows:,} rows of {file} rejected: see {folder}")


def _no_clicks() -> Timelines:
    whole, rows, small = np.empty(0, np.int64), np.empty(0, np.int32), np.empty(0, np.int8)
    return timelines(
        rank_N=whole,
        order_N=whole,
        user_row_N=rows,
        item_row_N=rows,
        rating_N=small,
        label_N=small,
        timestamp_N=whole,
        part_N=small,
    )
