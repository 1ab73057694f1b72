"""A model trained for real on a tiny dataset, without Ray."""

from pathlib import Path

from lorecast.artifacts import Artifact, StageSpec, build
from lorecast.config import ModelConfig, TrainingConfig
from lorecast.data.dataset import Dataset
from lorecast.training import trainer
from lorecast.training.recipe import Recipe
from lorecast.training.splits import Splits

MODEL = ModelConfig(embedding_dim=8, mlp_hidden=(16,))


def train_tiny(workspace: Path, dataset: Dataset, *, epochs: int, seed: int = 0) -> Artifact:
    """A bare DIN, what `train` leaves of it."""
    training = TrainingConfig(epochs=epochs, patience=epochs, batch_size=64, learning_rate=0.01)
    recipe = Recipe(model=MODEL, training=training, strategy="base", seed=seed)
    splits = Splits.load(dataset, None)
    spec = StageSpec(
        stage="train",
        name="tiny",
        identity=recipe.identity(),
        inputs={"dataset": dataset.fingerprint},
    )
    with build(workspace, spec) as draft:
        trained = trainer.train(recipe, trainer.new_model(recipe, dataset, None), splits)
        assert trained is not None
        draft.facts.update(trainer.write(draft.path, trained, splits, dataset))
    return Artifact.open(draft.path)
