"""A backbone of one's own, named in the experiment: first the one that docs/models.md shows."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from lorecast.config import ModelConfig, load_config
from lorecast.data.dataset import Dataset
from lorecast.errors import ArtifactError, ConfigError, TrainingError
from lorecast.lifecycle.bundle import Bundle
from lorecast.lifecycle.scorer import Scorer
from lorecast.models.click_model import ClickModel
from lorecast.models.inputs import Batch
from lorecast.training.recipe import Recipe
from lorecast.training.splits import Splits
from lorecast.training.trainer import new_model, train
from tests import planted
from tests.small_bundle import write_small_bundle, write_vectors

PAGE = Path(__file__).parents[3] / "docs" / "models.md"
WRAPPED = """
from torch import nn
from lorecast.models.pooled import num_pooled, pooled_fields

class Ready(nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.layers = nn.Sequential(nn.LayerNorm(inputs), nn.Linear(inputs, 1))

    def forward(self, x):
        return self.layers(x)

class Wrapped(nn.Module):
    def __init__(self, config, counts):
        super().__init__()
        self.net = Ready(num_pooled(counts) * counts.dim)

    def forward(self, fields):
        return self.net(pooled_fields(fields).flatten(1)).squeeze(1)
"""
Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes the module `mymodel` into the folder where lorecast is started."""
    folder = tmp_path / "started-here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(code: str) -> Path:
        sys.modules.pop("mymodel", None)
        file = folder / "mymodel.py"
        file.write_text(code, encoding="utf-8")
        return file

    yield write
    sys.modules.pop("mymodel", None)


def _model(name: str) -> ClickModel:
    model = ClickModel(ModelConfig(backbone=f"mymodel:{name}"), planted.SCHEMA, None)
    model.attach(*planted.codes(np.random.default_rng(0)), None)
    return model.eval()


def _batch() -> Batch:
    return Batch.of(planted.world(np.random.default_rng(0), 30)[0])


@pytest.mark.parametrize("name", ["PlainMLP", "Wrapped"])
@pytest.mark.parametrize("strategy", ["base", "all_parameters"])
def test_it_trains_like_any_other(
    write: Write, tiny_dataset: Dataset, name: str, strategy: str
) -> None:
    page = PAGE.read_text(encoding="utf-8")
    write(page.split("```python\n", 1)[1].split("```", 1)[0] if name == "PlainMLP" else WRAPPED)
    overrides = [f"model.backbone=mymodel:{name}", "training.epochs=8", "training.patience=8"]
    config = load_config(None, [*overrides, "training.learning_rate=0.01"])
    recipe = Recipe(model=config.model, training=config.training, strategy=strategy, seed=0)
    vectors = None
    if recipe.uses_knowledge:
        vectors = write_vectors(tiny_dataset.path.parents[1], tiny_dataset)
    splits = Splits.load(tiny_dataset, vectors)
    trained = train(recipe, new_model(recipe, tiny_dataset, vectors), splits)
    assert trained is not None
    assert trained.fit.epochs[-1].train_loss < 0.9 * trained.fit.epochs[0].train_loss
    assert type(trained.model.backbone).__name__ == name


def test_its_code_is_part_of_the_identity(write: Write) -> None:
    config = ModelConfig(backbone="mymodel:Wrapped")
    write(WRAPPED)
    before = config.identity()
    assert "cross" not in before  # what lies at its default may come and go
    assert config.identity() == before
    wider = config.model_copy(update={"mlp_hidden": (64,)})
    assert wider.identity() != before
    write(WRAPPED + "# another comment")
    assert config.identity() != before


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("class Net: pass", r"mymodel:Net is no torch\.nn\.Module"),
        ("Net = 3", r"mymodel\.py has no class Net"),
        ("", r"mymodel\.py has no class Net"),
        ("import no_such_module", r"cannot be imported \(ModuleNotFoundError: .*PYTHONPATH"),
        ("class Net(", r"cannot be imported \(SyntaxError"),
        (
            "from torch import nn\nclass Net(nn.Module):\n  def __init__(self): pass",
            "of .config, c",
        ),
    ],
)
def test_a_class_that_cannot_be_one_is_refused(write: Write, code: str, said: str) -> None:
    write(code)
    with pytest.raises(ConfigError, match=said):
        _model("Net")


@pytest.mark.bad_input
def test_a_module_that_is_not_there_is_named(write: Write) -> None:
    with pytest.raises(ConfigError, match=r"mymodel:Net: mymodel cannot be imported"):
        ModelConfig(backbone="mymodel:Net").identity()


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ("fields.target_BNE[:, 0, :1]", r"\[B\]; mymodel:Net gave \[B, 1\] \(B = 30\)"),
        ("fields.target_BNE.sum()", r"mymodel:Net gave \[\]"),
        ("fields.target_BNE[3:, 0, 0]", r"mymodel:Net gave \[27\]"),
        ("(fields.target_BNE[:, 0, 0], None)", r"mymodel:Net gave a tuple"),
    ],
)
def test_other_than_one_logit_a_sample_is_refused(write: Write, returned: str, said: str) -> None:
    init = "def __init__(self, config, counts): super().__init__()"
    forward = f"def forward(self, fields): return {returned}"
    write(f"from torch import nn\nclass Net(nn.Module):\n  {init}\n  {forward}\n")
    with pytest.raises(TrainingError, match=said):
        _model("Net")(_batch())


@pytest.mark.bad_input
def test_a_bundle_runs_no_code_uninvited(
    write: Write, tiny_dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = tiny_dataset.path.parents[1]
    bundle = write_small_bundle(workspace, tiny_dataset, knowledge=False)
    expected = Scorer.load(bundle).score(["u3", "u4"], ["i1", "i2"])
    ran = workspace / "ran"
    write(
        f"open({str(ran)!r}, 'w').close()\n"
        "from lorecast.models.backbones.din import DIN\n"
        "class Net(DIN): pass\n"
    )
    card = json.loads((bundle / "bundle.json").read_text())
    card["model"]["config"]["backbone"] = "mymodel:Net"
    (bundle / "bundle.json").write_text(json.dumps(card))
    monkeypatch.delenv("LORECAST_ALLOW_CODE", raising=False)
    for load in (Bundle.open, Scorer.load):
        with pytest.raises(ArtifactError, match=r"'mymodel:Net'.*LORECAST_ALLOW_CODE=1"):
            load(bundle)
    assert not ran.exists()
    monkeypatch.setenv("LORECAST_ALLOW_CODE", "1")
    scorer = Scorer.load(bundle)
    np.testing.assert_array_equal(scorer.score(["u3", "u4"], ["i1", "i2"]), expected)
    assert ran.exists()
