"""Where interactions, users and items come from."""

from pathlib import Path
from typing import Protocol

from lorecast.config import DatasetConfig, InteractionColumns
from lorecast.data.entities import Entities
from lorecast.data.files import TableFiles
from lorecast.errors import ConfigError, InputError


class Source(Protocol):
    """One set of tables. `data.tables`, `data.movielens` and `world.source` are sources."""

    columns: InteractionColumns
    """How the interactions' columns are called."""

    def fingerprint(self) -> str:
        """Digest of everything the source holds."""

    def interactions(self, scratch: Path) -> TableFiles:
        """Files with the interactions; a source that has none writes them below `scratch`."""

    def users(self) -> Entities | None:
        """All users; none: those that the interactions mention."""

    def items(self) -> Entities | None:
        """All items; none: those that the interactions mention."""


def source_folder(config: DatasetConfig) -> Path:
    """`dataset.path`, checked. Raises ConfigError if unset, InputError if it is no folder."""
    if config.path is None:
        raise ConfigError(
            f"dataset.path: name the folder with the tables (dataset.source is {config.source!r})"
        )
    folder = Path(config.path).expanduser().resolve()
    if not folder.is_dir():
        fix = "name the folder it is in" if folder.is_file() else "there is no such folder"
        raise InputError(f"{folder} (dataset.path): {fix}")
    return folder
