"""How sure the writer was of each text, as numbers beside the vectors.

    z_c = (l − mean of l over entities) / its standard deviation     l: the text's `rows.CERTAINTY`

Factors differ in how sure a model sounds, so each chunk has its own mean; z is cut at ±3, so that
no odd text stands out by far. Legend: N lines of the texts' table, R rows of a side, C chunks.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lorecast.config import Side
from lorecast.encoding.scatter import SIDES, chunk_places
from lorecast.encoding.vectors import CERTAINTY, ChunkName
from lorecast.knowledge import rows

_LARGEST: Final = 3.0


def write_certainty(
    texts: pa.Table,
    chunks: Mapping[Side, tuple[ChunkName, ...]],
    num_rows: Mapping[Side, int],
    folder: Path,
) -> None:
    """Writes float16 [R + 1, C] for each side with chunks, 0 where nothing is known; `num_rows`
    counts entities. Writes nothing if no text says."""
    told = texts.filter(texts[rows.CERTAINTY].is_valid())
    if told.num_rows == 0:
        return
    place_N = chunk_places(told, chunks)
    for side in SIDES:
        if chunks[side]:
            of_side = np.flatnonzero(pc.equal(told["side"], side))
            own = told.take(pa.array(of_side))
            shape = (num_rows[side] + 1, len(chunks[side]))
            certainty_RC = _standardised(own, place_N[of_side], shape)
            np.save(folder / CERTAINTY.format(side), certainty_RC.astype(np.float16))


def _standardised(
    texts: pa.Table, chunk_N: NDArray[np.int64], shape: tuple[int, int]
) -> NDArray[np.float64]:
    """z_RC of the texts of one side; mixed texts count by their weight."""
    place = (texts["row"].to_numpy(), chunk_N)
    weight_N = texts["weight"].to_numpy().astype(np.float64)
    total_RC, weight_RC = np.zeros(shape), np.zeros(shape)
    np.add.at(total_RC, place, weight_N * texts[rows.CERTAINTY].to_numpy())
    np.add.at(weight_RC, place, weight_N)
    is_known_RC = weight_RC > 0
    value_RC = np.divide(total_RC, weight_RC, out=np.zeros(shape), where=is_known_RC)
    number_C = np.maximum(is_known_RC.sum(0), 1)
    centred_RC = np.where(is_known_RC, value_RC - value_RC.sum(0) / number_C, 0)
    deviation_C = np.sqrt(np.square(centred_RC).sum(0) / number_C)
    z_RC = centred_RC / np.where(deviation_C > 0, deviation_C, 1)
    cut_RC: NDArray[np.float64] = np.clip(z_RC, -_LARGEST, _LARGEST)
    return cut_RC
