"""The samples of an experiment as tensors in memory, checked before anything is trained on them."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Self, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lorecast.config import TrainingProtocol
from lorecast.data.batches import Samples, load_samples
from lorecast.data.dataset import Dataset
from lorecast.data.layout import Split
from lorecast.encoding.vectors import VectorsTable
from lorecast.errors import TrainingError
from lorecast.knowledge.leakage import check_no_leak
from lorecast.models.inputs import Batch
from lorecast.training.metrics import Metrics

Arrays: TypeAlias = Mapping[str, NDArray[Any]]
"""Samples by the names of their tensors."""
_LABEL: Final = "label_B"


@dataclass(frozen=True)
class Labelled:
    """Samples of a split, ready for training or measuring."""

    rows: Batch
    label_B: Tensor
    """0.0 or 1.0."""

    @classmethod
    def of(cls, samples: Samples, split: Split) -> Self:
        """Tensors of a split. Raises TrainingError if it lacks clicks or non-clicks."""
        if len(samples) == 0:
            raise TrainingError(f"the {split} part has no samples: give dataset.split more of it")
        if samples.label_B.min() == samples.label_B.max():
            raise TrainingError(
                f"every label of the {split} part is {samples.label_B[0]}, and both 0 and 1 are "
                "needed: check dataset.positive_rating or the label column"
            )
        return cls(Batch.of(samples), torch.from_numpy(samples.label_B.astype("float32")))

    def arrays(self) -> Arrays:
        """What `from_arrays` takes, sharing the memory."""
        rows = {field.name: getattr(self.rows, field.name) for field in fields(self.rows)}
        arrays = {name: rows_B.numpy() for name, rows_B in rows.items() if rows_B is not None}
        return {**arrays, _LABEL: self.label_B.numpy()}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Self:
        """The samples in these arrays, whose memory they share; it may be read-only."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        label_B = tensors.pop(_LABEL)
        return cls(Batch(**tensors), label_B)

    def metrics(self, probability_B: NDArray[np.float32]) -> Metrics:
        """How well these probabilities fit the samples."""
        user_B, label_B = self.rows.user_row_B.cpu().numpy(), self.label_B.cpu().numpy()
        return Metrics.of(user_B, label_B, probability_B)

    def to(self, device: torch.device) -> Self:
        """The same samples on `device`."""
        return type(self)(self.rows.to(device), self.label_B.to(device))

    def __len__(self) -> int:
        return len(self.label_B)


@dataclass(frozen=True, kw_only=True)
class Splits:
    """All parts; of the training part, one shard."""

    train: Labelled
    valid: Labelled
    test: Labelled

    @classmethod
    def load(
        cls,
        dataset: Dataset,
        vectors: VectorsTable | None,
        *,
        protocol: TrainingProtocol = "honest",
        shard: int = 0,
        num_shards: int = 1,
        device: torch.device | None = None,
        most_bytes: int | None = None,
    ) -> Self:
        """Reads the dataset's samples; `most_bytes` as in `load_samples`, of the training part.

        With protocol kar `train` holds the validation samples, too, and `valid` those of the test.
        Raises TrainingError if a part has no samples or only one class, and LeakageError if
        knowledge in `vectors` has seen a sample.
        """
        device = device or torch.device("cpu")
        trained_on: tuple[Split, ...] = ("train", "valid") if protocol == "kar" else ("train",)
        chosen_on: Split = "test" if protocol == "kar" else "valid"
        parts: dict[Split, Samples] = {
            "train": load_samples(dataset, trained_on, shard, num_shards, most_bytes=most_bytes),
            chosen_on: load_samples(dataset, chosen_on),
        }
        if "test" not in parts:
            parts["test"] = load_samples(dataset, "test")
        if vectors is not None and vectors.chunks("user"):
            user_ids = dataset.users()["id"].to_pylist()
            for samples in parts.values():
                check_no_leak(
                    samples.user_row_B, samples.position_B, vectors.user_history_end, user_ids
                )
        tensors = {split: Labelled.of(part, split).to(device) for split, part in parts.items()}
        return cls(train=tensors["train"], valid=tensors[chosen_on], test=tensors["test"])
