"""Search spaces: what they read as, where they may stand, what other commands say of them."""

from pathlib import Path
from typing import Any

import pytest

from lorecast.config import Space, load_config, load_search
from lorecast.config.spaces import find_spaces
from lorecast.errors import ConfigError

RATE = "training.learning_rate={loguniform: [1e-4, 1e-2]}"


def test_spaces_stand_where_their_values_would(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "training: {learning_rate: {loguniform: [1e-4, 1e-2]}, epochs: 7}\n"
        "model:\n"
        "  dropout: {uniform: [0, 0.5]}\n"
        "  mlp_hidden: {choice: [[200, 80], [64]]}\n"
        "  kser: {gate_hidden: {int: [16, 128]}}\n"
        "tune: {trials: 5, seed: 3}\n"
    )
    search = load_search([str(path), "training.patience=2"])
    assert search.spaces == (
        Space("training.learning_rate", "loguniform", (1e-4, 1e-2)),
        Space("model.dropout", "uniform", (0.0, 0.5)),
        Space("model.mlp_hidden", "choice", ([200, 80], [64])),
        Space("model.kser.gate_hidden", "int", (16, 128)),
    )
    assert (search.config.tune.trials, search.config.tune.seed) == (5, 3)
    assert search.config.model.mlp_hidden == (200, 80), "the first of each space"
    found = search.experiment(
        {
            "training.learning_rate": 0.003,
            "model.dropout": 0.1,
            "model.mlp_hidden": [64],
            "model.kser.gate_hidden": 77,
        }
    )
    assert found.training.learning_rate == 0.003
    assert (found.training.epochs, found.training.patience) == (7, 2)
    assert (found.model.dropout, found.model.mlp_hidden) == (0.1, (64,))
    assert found.model.kser.gate_hidden == 77
    written = {"training": {"learning_rate": search.spaces[0].as_document()}}
    assert find_spaces(written) == {"training.learning_rate": search.spaces[0]}


def test_a_value_replaces_a_space_and_a_space_a_value(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("training: {learning_rate: {loguniform: [1e-4, 1e-2]}}\n")
    config = load_config(path, ["training.learning_rate=0.002"])
    assert config.training.learning_rate == 0.002
    (space,) = load_search(["training.learning_rate=0.002", RATE]).spaces
    assert space.kind == "loguniform"


@pytest.mark.bad_input
def test_other_commands_name_the_key(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("model: {kser: {dim: {choice: [16, 32]}}}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value) == (
        f"{path}: model.kser.dim is a search space: run `lorecast tune`, or give one value"
    )


def test_mappings_that_belong_there_are_no_spaces() -> None:
    document: dict[str, Any] = {
        "encoding": {"where": {"words": [3, 9]}},
        "dataset": {"split": {"values": {"train": "a"}}},
        "sella": {"tune": {"epochs": 1}},
    }
    assert find_spaces(document) == {}


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("training.learning_rate={lognormal: [1, 2]}", "kind: uniform, loguniform, int, choice"),
        ("training.learning_rate={uniform: [1, 2], int: [1, 2]}", "(got uniform, int)"),
        ("training.learning_rate={loguniform: [1e-2, 1e-4]}", "LOW < HIGH"),
        ("training.learning_rate={uniform: [0.1, 0.1]}", "LOW < HIGH"),
        ("training.learning_rate={uniform: [0.1, .inf]}", "LOW < HIGH"),
        ("training.learning_rate={loguniform: [0, 1]}", "ends above 0"),
        ("training.learning_rate={uniform: [low, 1]}", "two numbers (got ['low', 1])"),
        ("training.learning_rate={uniform: [1]}", "two numbers (got [1])"),
        ("training.batch_size={int: [1.5, 4]}", "two whole numbers"),
        ("model.backbone={choice: [din]}", "two or more"),
        ("model.backbone={choice: [din, din]}", "twice"),
        ("model.backbone={choice: [din, dine]}", "no such backbone"),
        ("model.dropout={uniform: [0.1, 1.5]}", "less than or equal to 1 (got 1.5 in its search"),
        ("training.batch_size={uniform: [1, 4.5]}", "valid integer"),
        ("training.learning_rtae={uniform: [1, 2]}", "did you mean training.learning_rate"),
        ("training.epochs={int: [2, 9]}", "for how long"),
        ("training.seeds={choice: [[0], [1]]}", "which models are compared"),
        ("training.backbone_from={choice: [a, b]}", "where they come from"),
        ("compute.threads={int: [1, 2]}", "model and training alone"),
        ("dataset.split.seed={int: [0, 9]}", "model and training alone"),
        ("knowledge.llm.temperature={uniform: [0, 1]}", "model and training alone"),
        ("encoding.components={int: [8, 64]}", "model and training alone"),
        ("name={choice: [a, b]}", "model and training alone"),
    ],
)
def test_a_wrong_space_is_named(override: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_search([override])
    assert override.split("=")[0] in str(caught.value)
    assert sentence in str(caught.value)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "nothing to search"),
        ([RATE, "training.protocol=kar"], "training.protocol=honest"),
        ([RATE, "training.epochs=1"], "tune.grace is 4, more than training.epochs (1)"),
        ([RATE, "tune.reduction=1"], "tune.reduction"),
        ([RATE, "sella={methods: [mf]}"], "section `sella` is not searched"),
    ],
)
def test_a_search_that_makes_no_sense_says_why(words: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_search(words)
    assert sentence in str(caught.value)


def test_values_that_fit_only_together_are_left_to_the_trial() -> None:
    spaces = ["model.kser.dim={choice: [32, 48]}", "model.kser.heads={choice: [4, 32]}"]
    search = load_search(spaces)
    good = search.experiment({"model.kser.dim": 32, "model.kser.heads": 32})
    assert good.model.kser.heads == 32
    with pytest.raises(ConfigError, match="multiple of"):
        search.experiment({"model.kser.dim": 48, "model.kser.heads": 32})
