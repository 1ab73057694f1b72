"""What SeLLa-Rec's trainings make of items, for models that read vectors.

Of `sella-vectors`: what the tuned language model makes of titles. Of `sella-guide`: the rows behind
<Item_ID>, aligned with those and trained on clicks.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from lorecast.artifacts import Artifact
from lorecast.data.dataset import Dataset
from lorecast.errors import EncodingError, LeakageError
from lorecast.sella.saved import GUIDE
from lorecast.sella.stages import VECTORS


@dataclass(frozen=True, eq=False)
class ItemVectors:
    """Vectors by item row. Legend: R item rows with row 0, H their width."""

    fingerprint: str
    """Of the artifact they come from."""
    vector_RH: NDArray[np.float32]
    known_R: NDArray[np.bool_]
    """Which rows have one: those with a title, or with training samples."""

    @classmethod
    def read(cls, folder: Path, dataset: Dataset) -> Self:
        """Of a finished artifact.

        Raises LeakageError if it was made on another dataset: rows are numbered differently there,
        and its training part may hold what is to be predicted here. Raises EncodingError if it has
        no vectors of items.
        """
        artifact = Artifact.open(folder)
        stage = artifact.manifest["stage"]
        if stage not in ("sella-vectors", "sella-guide"):
            raise EncodingError(
                f"{folder} is an output of `{stage}`: a field of kind vectors takes one of "
                "`sella-vectors` or `sella-guide`"
            )
        if artifact.manifest["inputs"].get("dataset") != dataset.fingerprint:
            raise LeakageError(
                f"{folder} was not made on {dataset.path}: it may have been trained on clicks that "
                "are to be predicted here; make it with the same section `dataset`"
            )
        if stage == "sella-vectors":
            arrays = load_file(folder / VECTORS)
            vector_RH, known_R = arrays["semantic"], arrays["has_title"]
        else:
            arrays = load_file(folder / GUIDE) if (folder / GUIDE).exists() else {}
            if "item.weight" not in arrays:
                raise EncodingError(f"{folder} has no <Item_ID>: take another method's guide")
            vector_RH, known_R = arrays["item.weight"], arrays["known_item_R"]
        known_R = known_R.copy()
        known_R[0] = False
        return cls(artifact.fingerprint, vector_RH.astype(np.float32), known_R)
