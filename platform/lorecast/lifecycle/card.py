"""What every bundle says of itself, whichever kind of scorer it is for.

    bundle.json                     written last: format, kind, fingerprints, metrics, file sizes
    items.parquet, users.parquet    ids, titles; ids, recent histories; line i is row i + 1

The kinds: `click` (`bundle`), a click model; `sella` (`sella_bundle`), a language model that is
asked whether the user will like the item. Neither needs the dataset, Ray or MLflow, neither holds
a pickle, and both may be moved and copied.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from textwrap import shorten
from typing import Any, ClassVar, Literal, Self, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors import SafetensorError

from lorecast.artifacts import write_json
from lorecast.config import Side
from lorecast.data.dataset import Dataset
from lorecast.errors import ArtifactError

CARD = "bundle.json"
Kind = Literal["click", "sella"]
_FORMAT = "lorecast-bundle/1"


@dataclass(frozen=True, kw_only=True)
class BundleCard(ABC):
    """An opened bundle of any kind."""

    kind: ClassVar[Kind]

    path: Path
    strategy: str
    """How it was trained: a click model's strategy, or the method of a `sella` section."""
    num_users: int
    num_items: int
    history_length: int
    rating_levels: tuple[float, ...]
    """Ascending; the code of a level is its index + 1."""
    rates_histories: bool
    """False: histories are items alone."""
    contexts: Mapping[str, tuple[str, ...]]
    """Values per context feature; the code of a value is its index + 1."""
    fingerprints: Mapping[str, str]
    metrics: Mapping[str, Mapping[str, float]]

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """The bundle in `folder`. Raises ArtifactError if it is missing, incomplete, foreign or of
        another kind."""
        folder = Path(folder)
        card = _read(folder)
        if card["kind"] != cls.kind:
            raise ArtifactError(
                f"{folder} is a bundle of kind {card['kind']!r}; one of kind {cls.kind!r} is needed"
            )
        try:
            return cls._parse(folder, card)
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(folder, error) from None

    @classmethod
    @abstractmethod
    def _parse(cls, folder: Path, card: Mapping[str, Any]) -> Self:
        """The bundle that the card describes. Raises KeyError, TypeError or ValueError."""

    @staticmethod
    def _common(folder: Path, card: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a card that all kinds have."""
        return {
            "path": folder,
            "history_length": card["history_length"],
            "rating_levels": tuple(card["rating_levels"]),
            "rates_histories": card.get("rates_histories", True),
            "contexts": {name: tuple(v) for name, v in card.get("contexts", {}).items()},
            "fingerprints": card["fingerprints"],
            "metrics": card["metrics"],
        }

    @property
    def version(self) -> str:
        """What it is called where no registry has numbered it."""
        return f"bundle-{self.fingerprints['model'][:8]}"

    def entities(self, side: Side) -> pa.Table:
        """Items (id, title) or users (id, recent history), with features, in row order."""
        return pq.read_table(self.path / f"{side}s.parquet")

    def names(self, side: Side, row_N: NDArray[np.integer]) -> list[tuple[str, str]]:
        """(id, title) of the entities in these rows, none of them 0; users are called by id."""
        columns = ["id", "title" if side == "item" else "id"]
        table = pq.read_table(self.path / f"{side}s.parquet", columns=sorted(set(columns)))
        found = table.take(pa.array(row_N - 1))
        ids, titles = (found[column].to_pylist() for column in columns)
        return list(
            zip(ids, (title or id_ for id_, title in zip(ids, titles, strict=True)), strict=True)
        )


def kind_of(folder: str | Path) -> Kind:
    """The kind of the bundle in `folder`; raises ArtifactError as `BundleCard.open` does."""
    kind: Kind = _read(Path(folder))["kind"]
    return kind


def common_card(kind: Kind, dataset: Dataset) -> dict[str, Any]:
    """What a card of this kind says of the dataset that its model was trained on."""
    return {
        "format": _FORMAT,
        "kind": kind,
        "history_length": dataset.history_length,
        "rating_levels": dataset.rating_levels,
        "rates_histories": dataset.rates_histories,
    }


def seal(folder: Path, card: Mapping[str, Any]) -> None:
    """Writes the card, with the sizes of all files in `folder`: now it is a bundle."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    sizes = {file.relative_to(folder).as_posix(): file.stat().st_size for file in files}
    write_json(folder / CARD, {**card, "files": sizes})


@contextmanager
def loading(folder: Path) -> Iterator[None]:
    """What goes wrong with a bundle's files inside becomes an ArtifactError."""
    try:
        yield
    except (SafetensorError, RuntimeError, KeyError, ValueError, OSError) as error:
        reason = shorten(str(error), 200)
        raise ArtifactError(
            f"{folder}: its files do not belong together, or come from another version "
            f"({reason}); make the bundle again"
        ) from None


def is_inside(name: str) -> bool:
    """Whether a name from a file leads nowhere but below the folder it is joined to."""
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def _read(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise ArtifactError(f"{folder}: no such bundle; `lorecast run` makes one")
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(
            f"{folder} is no bundle or a half-written one (no {CARD}); `lorecast run` makes one"
        ) from None
    except ValueError:
        raise ArtifactError(f"{folder / CARD} is damaged; copy the bundle again") from None
    if not isinstance(card, dict) or card.get("format") != _FORMAT:
        raise ArtifactError(
            f"{folder / CARD} is not of format {_FORMAT}; make the bundle with this version"
        )
    try:
        kind, sizes = card["kind"], dict(card["files"])
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(folder, error) from None
    if kind not in get_args(Kind):
        raise ArtifactError(
            f"{folder} is a bundle of kind {kind!r}, which this version does not know; use the "
            "version that made it, or a later one"
        )
    for name, size in sizes.items():
        if not is_inside(name):
            raise _damaged(folder, ValueError(f"it names {name[:100]!r}, outside of the folder"))
        file = folder / name
        found = file.stat().st_size if file.is_file() else None
        if found is None:
            raise ArtifactError(f"{file} is missing; copy the bundle again")
        if found != size:
            raise ArtifactError(f"{file} has {found} of {size} bytes; copy the bundle again")
    return card


def _damaged(folder: Path, error: Exception) -> ArtifactError:
    return ArtifactError(f"{folder / CARD} is damaged ({error}); copy the bundle again")
