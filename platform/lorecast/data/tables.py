"""The source `tables`: one's own Parquet or CSV files, mapped in the experiment."""

from pathlib import Path

from lorecast.artifacts import fingerprint
from lorecast.config import DatasetConfig, EntityColumns, Side
from lorecast.data.entities import Entities, read_entities
from lorecast.data.files import TableFiles
from lorecast.data.interactions import InteractionRules
from lorecast.data.sources import source_folder


class TablesSource:
    """Files below `dataset.path`, with the columns that the experiment names.

    Raises InputError, naming file and column, as soon as a file or column is missing.
    """

    def __init__(self, config: DatasetConfig) -> None:
        assert config.interactions is not None
        folder = source_folder(config)
        self.columns = config.interactions
        self._interactions = TableFiles.find(folder, self.columns.file)
        rules = InteractionRules(columns=self.columns, config=config)
        self._interactions.require(rules.used, "dataset.interactions")
        self._entities: dict[Side, tuple[TableFiles, EntityColumns]] = {}
        if config.users is not None:
            self._entities["user"] = (TableFiles.find(folder, config.users.file), config.users)
        if config.items is not None:
            self._entities["item"] = (TableFiles.find(folder, config.items.file), config.items)

    def fingerprint(self) -> str:
        files = [self._interactions, *(files for files, _ in self._entities.values())]
        return fingerprint([table.fingerprint() for table in files])

    def interactions(self, scratch: Path) -> TableFiles:  # noqa: ARG002
        return self._interactions

    def users(self) -> Entities | None:
        return self._read("user")

    def items(self) -> Entities | None:
        return self._read("item")

    def _read(self, side: Side) -> Entities | None:
        if side not in self._entities:
            return None
        files, columns = self._entities[side]
        return read_entities(files, side, columns)
