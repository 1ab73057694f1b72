"""What must not be trained on, or cannot be, is refused with the reason and the fix."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from lorecast.config import DatasetConfig, InteractionColumns, ModelConfig, TrainingConfig
from lorecast.data.dataset import Dataset
from lorecast.data.files import Chunk
from lorecast.data.interactions import InteractionRules, check
from lorecast.data.layout import samples_folder
from lorecast.errors import EncodingError, LeakageError, TrainingError
from lorecast.knowledge.leakage import UNKNOWN_END
from lorecast.models.click_model import ClickModel
from lorecast.models.feature_tables import feature_tables
from lorecast.training.recipe import Recipe
from lorecast.training.splits import Splits
from lorecast.training.trainer import knowledge_shape, new_model, train
from tests.small_bundle import write_vectors

pytestmark = pytest.mark.bad_input

TRAINING = TrainingConfig(epochs=2, batch_size=64)


def test_vectors_of_another_dataset(
    make_tiny_dataset: Callable[..., Dataset], tmp_path: Path
) -> None:
    dataset, other = make_tiny_dataset(), make_tiny_dataset(seed=1)
    vectors = write_vectors(tmp_path, other)
    vectors.check(other)
    with pytest.raises(EncodingError, match=r"made for another dataset .*`lorecast encode`"):
        vectors.check(dataset)


def test_vectors_of_more_rows_than_the_dataset_has(
    make_tiny_dataset: Callable[..., Dataset], tmp_path: Path
) -> None:
    dataset = make_tiny_dataset()
    vectors = write_vectors(tmp_path, make_tiny_dataset(num_items=50))
    recipe = Recipe(model=ModelConfig(), training=TRAINING, strategy="all_parameters", seed=0)
    said = r"items' vectors are \[51, 2, 16\] .*takes \[41, 2, 16\].*another dataset"
    with pytest.raises(EncodingError, match=said):
        new_model(recipe, dataset, vectors)


@pytest.mark.parametrize("change", ["width", "texts"])
@pytest.mark.parametrize("extractor", ["kser", "hein", "naive"])
def test_vectors_that_the_extractor_was_not_made_for(
    tiny_dataset: Dataset, tmp_path: Path, extractor: str, change: str
) -> None:
    vectors = write_vectors(tmp_path, tiny_dataset)
    shape = knowledge_shape(vectors)
    assert shape is not None
    trained = {
        "width": replace(shape, dim=24),
        "texts": replace(shape, item_chunks=shape.item_chunks[:1]),
    }[change]
    model = ClickModel(ModelConfig(extractor=extractor), tiny_dataset.schema, trained)
    expected = {"width": [41, 2, 24], "texts": [41, 1, 16]}[change]
    with pytest.raises(EncodingError, match=rf"\[41, 2, 16\] .*takes \{str(expected)[:-1]}\]"):
        model.attach(*feature_tables(tiny_dataset), vectors)


def test_a_label_that_is_no_number() -> None:
    columns = InteractionColumns(file="clicks", user="who", item="what", label="clicked")
    config = DatasetConfig(source="tables", interactions=columns)
    clicked = [1.0, float("nan"), 0.0, None, 0.5]
    table = {"who": ["ann"] * 5, "what": ["10"] * 5, "clicked": clicked, "timestamp": range(1, 6)}
    found = check(
        Chunk(0, pa.table({name: pa.array(values) for name, values in table.items()}), ()),
        "clicks.parquet",
        InteractionRules(columns=columns, config=config),
        pa.array(["ann"]),
        pa.array(["10"]),
    )
    assert found.accepted["label"].to_pylist() == [1, 0]
    assert found.rejected["row"].to_pylist() == [1, 3, 4]
    assert set(found.rejected["reason"].to_pylist()) == {"clicked is not 0 or 1"}


@pytest.mark.parametrize("split", ["train", "valid", "test"])
@pytest.mark.parametrize("label", [0, 1])
def test_labels_of_one_class(tiny_dataset: Dataset, split: str, label: int) -> None:
    for part in samples_folder(tiny_dataset.path, split).glob("*.parquet"):
        table = pq.read_table(part)
        place = table.schema.get_field_index("label")
        column = pa.array(np.full(table.num_rows, label), table.schema.field(place).type)
        pq.write_table(table.set_column(place, table.schema.field(place), column), part)
    said = rf"every label of the {split} part is {label}, .*dataset\.positive_rating"
    with pytest.raises(TrainingError, match=said):
        Splits.load(tiny_dataset, None)


class GivesColumns(nn.Module):
    """A backbone that forgets to squeeze."""

    def __init__(self, _config: ModelConfig, counts: object) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, fields: object) -> torch.Tensor:
        return fields.target_BNE.sum((1, 2))[:, None] + self.bias  # type: ignore[attr-defined]


def test_a_backbone_that_gives_another_shape(tiny_dataset: Dataset) -> None:
    """Broadcast against the labels, [B, 1] would train on nonsense without a word."""
    model = ModelConfig(backbone=f"{__name__}:GivesColumns")
    recipe = Recipe(model=model, training=TRAINING, strategy="base", seed=0)
    splits = Splits.load(tiny_dataset, None)
    with pytest.raises(TrainingError, match=r"GivesColumns gave \[B, 1\] \(B = 64\)"):
        train(recipe, new_model(recipe, tiny_dataset, None), splits)


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ("later", r"seen samples that are to be predicted \(for example user 'u7'"),
        ("unknown", r"user 'u7'\) does not say .*knowledge\.fields\.history_end"),
    ],
)
def test_knowledge_written_after_the_sample(
    tiny_dataset: Dataset, tmp_path: Path, end: str, said: str
) -> None:
    vectors = write_vectors(tmp_path, tiny_dataset)
    ends = tiny_dataset.history_end()
    ends[7] = UNKNOWN_END if end == "unknown" else ends[7] + 3
    np.save(vectors.path / "user_history_end.npy", ends)
    with pytest.raises(LeakageError, match=said):
        Splits.load(tiny_dataset, type(vectors).open(vectors.path))


def test_a_learning_rate_that_blows_up(tiny_dataset: Dataset) -> None:
    training = TRAINING.model_copy(update={"learning_rate": 1e30})
    recipe = Recipe(model=ModelConfig(), training=training, strategy="base", seed=0)
    splits = Splits.load(tiny_dataset, None)
    with pytest.raises(TrainingError, match=r"lower training\.learning_rate"):
        train(recipe, new_model(recipe, tiny_dataset, None), splits)
