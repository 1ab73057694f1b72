"""The experiment file: schema, loading, description."""

from lorecast.config.arms import MAIN_ARM, ArmConfig
from lorecast.config.dataset import (
    DatasetConfig,
    EntityColumns,
    InteractionColumns,
    ListColumn,
    SplitConfig,
)
from lorecast.config.knowledge import (
    CollectiveConfig,
    EncodingConfig,
    GeneratedField,
    ImportedField,
    KnowledgeConfig,
    LLMConfig,
    VectorsField,
)
from lorecast.config.loading import describe_fields, dump_config, load_config, load_experiment
from lorecast.config.model import Gate, HEINConfig, KSERConfig, ModelConfig
from lorecast.config.promotion import PromotionConfig
from lorecast.config.reranking import RerankingConfig
from lorecast.config.schema import (
    ComputeConfig,
    ExperimentConfig,
    RegistryConfig,
    ServingConfig,
    TrainingConfig,
)
from lorecast.config.search import SearchConfig
from lorecast.config.searching import Search, load_search
from lorecast.config.section import Side, Strategy, TrainingProtocol
from lorecast.config.sella import AlignConfig, GuideConfig, PromptConfig, SellaConfig, TuneConfig
from lorecast.config.spaces import Space

__all__ = [
    "MAIN_ARM",
    "AlignConfig",
    "ArmConfig",
    "CollectiveConfig",
    "ComputeConfig",
    "DatasetConfig",
    "EncodingConfig",
    "EntityColumns",
    "ExperimentConfig",
    "Gate",
    "GeneratedField",
    "GuideConfig",
    "HEINConfig",
    "ImportedField",
    "InteractionColumns",
    "KSERConfig",
    "KnowledgeConfig",
    "LLMConfig",
    "ListColumn",
    "ModelConfig",
    "PromotionConfig",
    "PromptConfig",
    "RegistryConfig",
    "RerankingConfig",
    "Search",
    "SearchConfig",
    "SellaConfig",
    "ServingConfig",
    "Side",
    "Space",
    "SplitConfig",
    "Strategy",
    "TrainingConfig",
    "TrainingProtocol",
    "TuneConfig",
    "VectorsField",
    "describe_fields",
    "dump_config",
    "load_config",
    "load_experiment",
    "load_search",
]
