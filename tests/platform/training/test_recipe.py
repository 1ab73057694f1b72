from lorecast.artifacts import fingerprint
from lorecast.config import ExperimentConfig, KSERConfig, Strategy, load_config
from lorecast.training.recipe import Recipe


def _identity(config: ExperimentConfig, strategy: Strategy, seed: int = 0) -> str:
    recipe = Recipe(model=config.model, training=config.training, strategy=strategy, seed=seed)
    return fingerprint(recipe.identity())


def test_a_model_is_itself_whatever_else_the_experiment_trains() -> None:
    one = load_config(None, ["training.seeds=[0]", "training.strategies=[base]"])
    many = load_config(None, ["training.seeds=[0,1,2]", "compute.train_workers=2"])
    assert _identity(one, "base") == _identity(many, "base")


def test_strategy_seed_and_schedule_make_another_model() -> None:
    config = load_config()
    other = load_config(None, ["training.learning_rate=0.01"])
    found = {
        _identity(config, "base"),
        _identity(config, "base", seed=1),
        _identity(config, "all_parameters"),
        _identity(other, "base"),
    }
    assert len(found) == 4


def test_the_bare_backbone_does_not_depend_on_the_extractor() -> None:
    config = load_config()
    model = config.model.model_copy(update={"kser": KSERConfig(dim=64)})
    wider = config.model_copy(update={"model": model})
    assert _identity(config, "base") == _identity(wider, "base")
    assert _identity(config, "all_parameters") != _identity(wider, "all_parameters")


def test_the_injection_is_of_extractor_only_alone_and_of_old_models_the_residual() -> None:
    plain = load_config()
    widened = load_config(None, ["model.injection=widen"])
    assert plain.identity() == load_config(None, ["model.injection=residual"]).identity()
    assert "injection" not in plain.model.identity()
    assert widened.model.identity() == plain.model.identity() | {"injection": "widen"}
    before: dict[Strategy, str] = {
        "base": "da7379485992277071bbe66c82c30e83",
        "all_parameters": "334309511347d6f8cf427833c4e306a7",
        "extractor_only": "8bcfaa7c96d4ee0ce8760e8e26b47938",
    }
    assert {strategy: _identity(plain, strategy) for strategy in before} == before
    for strategy in ("base", "all_parameters"):
        assert _identity(plain, strategy) == _identity(widened, strategy)
    assert _identity(plain, "extractor_only") != _identity(widened, "extractor_only")


def test_protocol_kar_makes_another_model_and_says_so() -> None:
    honest, kar = (
        Recipe(model=config.model, training=config.training, strategy="extractor_only", seed=3)
        for config in (load_config(), load_config(None, ["training.protocol=kar"]))
    )
    assert (honest.label, kar.label) == ("extractor_only-s3", "extractor_only-s3-kar")
    assert (honest.chosen_on, kar.chosen_on) == ("valid", "test")
    assert kar.base.label == "base-s3-kar"
    assert "protocol" not in honest.identity()["training"]
    assert kar.identity()["training"] == honest.identity()["training"] | {"protocol": "kar"}
