"""What arms are called."""

from lorecast.config import ModelConfig
from lorecast.jobs.arms import model_name


def test_a_backbone_of_ones_own_keeps_its_spelling() -> None:
    assert model_name(ModelConfig(backbone="mymodel:Net"), "base") == "mymodel:Net (base)"
    told = model_name(ModelConfig(backbone="dcnv2"), "all_parameters")
    assert told == "DCNV2 + KSER (all parameters)"
    widened = ModelConfig(injection="widen")
    told = model_name(widened, "extractor_only")
    assert told == "DIN, frozen, + KSER (extractor only, widen)"
    taken = ModelConfig(backbone="dcnv2", extractor_from="there")
    assert model_name(taken, "all_parameters") == "DCNV2 + KSER (trained with another model)"
