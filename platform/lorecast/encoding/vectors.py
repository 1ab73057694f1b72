"""The vectors table: knowledge as numbers, one memory-mapped array a side, aligned with rows.

    item.npy, user.npy               float16 [rows + 1, C, D], zeros where there is no text
    item_mask.npy, user_mask.npy     bool [rows + 1, C]
    {item,user}_certainty.npy        float16 [rows + 1, C], see `encoding.certainty`; only of
                                     knowledge that says how sure its writer was
    user_history_end.npy             int32 [users + 1], see `knowledge.leakage`

A side without knowledge has no files. Legend: C chunks, D encoder width; row 0 is unknown.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from lorecast.artifacts import Artifact
from lorecast.config import Side
from lorecast.data.dataset import Dataset
from lorecast.errors import EncodingError

STAGE: Final = "encode"
HISTORY_END: Final = "user_history_end.npy"
CERTAINTY: Final = "{}_certainty.npy"


class ChunkName(NamedTuple):
    """What a place in C holds."""

    field: str
    factor: str


@dataclass(frozen=True)
class VectorsTable:
    """An opened vectors table; arrays are read where they lie."""

    path: Path
    dim: int
    dataset_fingerprint: str
    names: Mapping[Side, tuple[ChunkName, ...]]

    @classmethod
    def open(cls, path: Path) -> Self:
        """The table in `path`. Raises ArtifactError if it is unfinished, EncodingError if it is
        the output of another stage."""
        artifact = Artifact.open(path)
        if artifact.manifest["stage"] != STAGE:
            raise EncodingError(
                f"{path} is an output of `{artifact.manifest['stage']}`, not of `{STAGE}`"
            )
        chunks = artifact.facts["chunks"]
        return cls(
            path=path,
            dim=artifact.facts["dim"],
            dataset_fingerprint=artifact.facts["dataset"],
            names={
                "item": tuple(ChunkName(**chunk) for chunk in chunks["item"]),
                "user": tuple(ChunkName(**chunk) for chunk in chunks["user"]),
            },
        )

    def __reduce__(self) -> tuple[Callable[[Path], "VectorsTable"], tuple[Path]]:
        # Arrays already mapped would travel by value.
        return VectorsTable.open, (self.path,)

    def check(self, dataset: Dataset) -> None:
        """Raises EncodingError if the rows are not this dataset's."""
        if self.dataset_fingerprint != dataset.fingerprint:
            raise EncodingError(
                f"{self.path} was made for another dataset than {dataset.path}; run `lorecast "
                "encode` again"
            )

    def chunks(self, side: Side) -> tuple[ChunkName, ...]:
        """Names of C; empty for a side without knowledge."""
        return self.names[side]

    def vectors(self, side: Side) -> NDArray[np.float16]:
        """[rows + 1, C, D], read-only."""
        return self._arrays[side]

    def mask(self, side: Side) -> NDArray[np.bool_]:
        """[rows + 1, C], True where there is a text; read-only."""
        return self._masks[side]

    def certainty(self, side: Side) -> NDArray[np.float16] | None:
        """[rows + 1, C], how sure the writer was, read-only; none if no text says."""
        return self._certainties[side]

    @cached_property
    def user_history_end(self) -> NDArray[np.int32]:
        """Per user row, the position of the last interaction that the user's texts saw.

        NO_KNOWLEDGE where there is no text, UNKNOWN_END where a text does not say.
        """
        assert self.names["user"], "no knowledge about users"
        ends: NDArray[np.int32] = _map(self.path / HISTORY_END)
        return ends

    @cached_property
    def _arrays(self) -> dict[Side, NDArray[np.float16]]:
        return {side: _map(self.path / f"{side}.npy") for side in self.names if self.names[side]}

    @cached_property
    def _masks(self) -> dict[Side, NDArray[np.bool_]]:
        return {
            side: _map(self.path / f"{side}_mask.npy") for side in self.names if self.names[side]
        }

    @cached_property
    def _certainties(self) -> dict[Side, NDArray[np.float16] | None]:
        paths = {side: self.path / CERTAINTY.format(side) for side in self.names}
        return {side: _map(path) if path.exists() else None for side, path in paths.items()}


def _map(path: Path) -> Any:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError:
        raise EncodingError(
            f"{path} is damaged: it holds no array of numbers; delete its folder and run `lorecast "
            "encode` again"
        ) from None


class VectorsWriter:
    """Fills one side's arrays on disk; they start out empty."""

    def __init__(self, folder: Path, side: Side, num_rows: int, num_chunks: int, dim: int) -> None:
        """`num_rows` counts entities; row 0 comes on top."""
        shape = (num_rows + 1, num_chunks)
        create: Any = np.lib.format.open_memmap
        self._vectors = create(folder / f"{side}.npy", "w+", np.float16, (*shape, dim))
        self._mask = create(folder / f"{side}_mask.npy", "w+", np.bool_, shape)

    def put(
        self,
        row_N: NDArray[np.integer],
        chunk_N: NDArray[np.integer],
        vector_ND: NDArray[np.float16],
    ) -> None:
        """Sets the vectors of N texts at their rows and chunks."""
        self._vectors[row_N, chunk_N] = vector_ND
        self._mask[row_N, chunk_N] = True

    def add(
        self,
        row_N: NDArray[np.integer],
        chunk_N: NDArray[np.integer],
        vector_ND: NDArray[np.floating],
    ) -> None:
        """Adds the vectors of N texts to what stands at their rows and chunks."""
        np.add.at(self._vectors, (row_N, chunk_N), vector_ND.astype(np.float16))
        self._mask[row_N, chunk_N] = True

    def close(self) -> None:
        """Everything is on disk."""
        self._vectors.flush()
        self._mask.flush()
