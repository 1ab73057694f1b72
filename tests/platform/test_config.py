"""The experiment file: defaults, errors that name the key, identity apart from execution."""

from pathlib import Path

import pytest

from lorecast.config import ExperimentConfig, describe_fields, dump_config, load_config
from lorecast.config.section import Section
from lorecast.errors import ConfigError

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


def test_default_experiment_is_the_world_and_survives_a_round_trip(tmp_path: Path) -> None:
    config = load_config()
    assert config.dataset.source == "world"
    (tmp_path / "all.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "all.yaml") == config


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_shipped_experiments_load(path: Path) -> None:
    assert load_config(path).name == path.stem


def test_world_file_says_what_the_defaults_are() -> None:
    world = load_config(CONFIGS[0].with_name("world.yaml"))
    assert world.identity() == ExperimentConfig().identity()


def test_overrides_reach_nested_keys_and_list_entries() -> None:
    config = load_config(
        None,
        [
            "training.seeds=[3,4]",
            "dataset.split.by=time",
            "knowledge.fields=[{kind: generate, name: a, side: item}]",
            "knowledge.fields.0.factors=[mood]",
        ],
    )
    assert config.training.seeds == (3, 4)
    assert config.dataset.split.by == "time"
    field = config.knowledge.fields[0]
    assert field.kind == "generate"
    assert field.factors == ("mood",)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("training: {sedes: [1]}", "training.sedes: unknown key; did you mean training.seeds"),
        ("training: {epochs: 0}", "training.epochs"),
        ("training: {epochs: many}", "got 'many'"),
        ("dataset: {source: tables}", "describe the clicks in dataset.interactions"),
        ("dataset: {split: {by: column}}", "name it in split.column"),
        ("dataset: {split: {valid: 0.0}}", "above 0"),
        ("model: {kser: {dim: 30, heads: 4}}", "multiple of model.kser.heads"),
        (
            "encoding: {where: {lenght: [1, 2]}}",
            "'lenght', which is no quality column; there are w",
        ),
        ("encoding: {where: {words: [9, 2]}}", "encoding.where.words: [9, 2] leaves nothing"),
        ("encoding: {where: {words: 3}}", "encoding.where.words"),
        (
            "serving: {arms: {b: {model: m, share: 0.1, shadow: 0.1}}}",
            "serving.arms.b: an arm has either a share of the users or a shadow",
        ),
        ("serving: {arms: {b: {model: m}}}", "serving.arms.b: an arm has either a share"),
        ("serving: {arms: {b: {model: m, share: 1.5}}}", "serving.arms.b.share"),
        ("serving: {arms: {b: {share: 0.5}}}", "serving.arms.b.model: Field required"),
        (
            "serving: {arms: {b: {model: m, shares: 0.5}}}",
            "serving.arms.b.shares: unknown key; did you mean serving.arms.NAME.share",
        ),
        ("serving: {arms: {main: {model: m, share: 0.5}}}", "serving.arms.main is the name of"),
        ("serving: {arms: {'a b': {model: m, share: 0.5}}}", "serving.arms.a b"),
        (
            "serving: {arms: {b: {model: m, share: 0.6}, c: {model: m, share: 0.5}}}",
            "serving.arms: the shares add up to 1.1",
        ),
        ("- a list", "expected `section:` keys"),
        ("a: b: c", "not valid YAML"),
    ],
)
def test_wrong_experiment_names_file_and_key(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(path) in str(caught.value)
    assert sentence in str(caught.value)


def test_file_that_is_missing_or_not_utf8(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes("name: größe".encode("latin-1"))
    with pytest.raises(ConfigError, match="not UTF-8 at byte 8"):
        load_config(tmp_path / "latin.yaml")


@pytest.mark.parametrize(
    "override", ["training.seeds", "=3", "name.deep=1", "knowledge.fields.7.name=x", "name=[1"]
)
def test_bad_override_is_quoted(override: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, ["knowledge.fields=[]", "name=world", override])
    assert override.split("=")[0] in str(caught.value)


def test_execution_never_enters_identity() -> None:
    plain = load_config(None)
    moved = load_config(
        None, ["compute.engines=8", "compute.workspace=elsewhere", "dataset.path=there"]
    )
    assert moved != plain
    assert moved.identity() == plain.identity()
    assert load_config(None, ["training.epochs=2"]).identity() != plain.identity()


def test_arms_by_override_are_no_identity() -> None:
    whole = ("a", 0.1), ("b", 0.2), ("c", 0.7)
    words = [f"serving.arms.{name}={{model: m, share: {share}}}" for name, share in whole]
    config = load_config(None, [*words, "serving.arms.a.share=0.05"])
    assert {name: arm.share for name, arm in config.serving.arms.items()} == {
        "a": 0.05,
        "b": 0.2,
        "c": 0.7,
    }
    assert load_config(None, words).serving.arms["c"].share == 0.7, "they may add up to 1"
    assert config.identity() == load_config(None).identity()


def test_the_arms_of_the_manual_load(tmp_path: Path) -> None:
    manual = CONFIGS[0].parents[1].joinpath("docs", "serving.md").read_text(encoding="utf-8")
    (tmp_path / "mine.yaml").write_text(manual.partition("```yaml\n")[2].partition("```")[0])
    arms = load_config(tmp_path / "mine.yaml").serving.arms
    assert [(arm.share, arm.shadow) for arm in arms.values()] == [(0.1, None), (None, 0.5)]


def test_quality_bounds_enter_the_identity_only_if_there_are_any() -> None:
    plain = load_config(None).encoding
    assert "where" not in plain.identity()
    bounded = load_config(None, ["encoding.where={copies: [1, 200], words: [3, null]}"]).encoding
    assert bounded.identity() == plain.identity() | {
        "where": {"copies": [1.0, 200.0], "words": [3.0, None]}
    }


def test_certainty_enters_identities_only_if_it_is_asked_for() -> None:
    plain = load_config(None)
    sure = load_config(None, ["knowledge.llm.certainty=true", "model.kser.certainty=true"])
    assert "certainty" not in plain.knowledge.llm.identity()
    assert "certainty" not in plain.model.kser.identity()
    llm = plain.knowledge.llm.identity() | {"certainty": True}
    assert sure.knowledge.llm.identity() == llm
    assert sure.model.kser.identity() == plain.model.kser.identity() | {"certainty": True}


def test_every_key_is_described() -> None:
    described = list(describe_fields())
    assert len(described) > 60
    assert not [key for key, _, text in described if not text]
    texts = {key: text for key, _, text in described}
    for of_columns in ("interactions.history", "items.multi", "items"):
        assert texts[f"dataset.{of_columns}"], "a section that may be absent is told itself, too"
    assert "dataset.items.multi.separator" in texts
    assert "training" not in texts
    assert issubclass(ExperimentConfig, Section)
