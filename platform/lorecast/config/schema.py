"""The experiment: one frozen, typed document.

The defaults are the embedded world's experiment, so `ExperimentConfig()` is complete and runs.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from lorecast.config.arms import ArmConfig, ArmName, check_arms
from lorecast.config.dataset import DatasetConfig
from lorecast.config.knowledge import EncodingConfig, KnowledgeConfig
from lorecast.config.model import WITH_MLP, ModelConfig
from lorecast.config.promotion import PromotionConfig
from lorecast.config.reranking import RerankingConfig
from lorecast.config.search import SearchConfig
from lorecast.config.section import EXECUTION, Positive, Section, Strategy, TrainingProtocol
from lorecast.config.sella import SellaConfig
from lorecast.errors import ConfigError
from lorecast.remote import is_remote, local_folder


class TrainingConfig(Section):
    """How models are trained and compared."""

    strategies: tuple[Strategy, ...] = Field(
        ("base", "all_parameters"), min_length=1, description="base, all_parameters, extractor_only"
    )
    seeds: tuple[int, ...] = Field((0,), min_length=1, description="one model a strategy and seed")
    epochs: Positive = Field(20, description="at most so many passes")
    patience: Positive = Field(3, description="epochs without a better validation AUC")
    batch_size: Positive = Field(1024, description="samples a step, over all workers")
    learning_rate: float = Field(1e-3, gt=0.0, description="AdamW's")
    weight_decay: float = Field(0.0, ge=0.0, description="AdamW's")
    averaging: float = Field(
        0.0,
        ge=0.0,
        lt=1.0,
        description="decay of the running mean of the weights, which is then what is validated and "
        "kept; about 0.98 for a few hundred steps, 0.999 for many thousands; 0: the last weights",
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="arithmetic of products in training; weights stay float32"
    )
    backbone_from: Annotated[str | None, EXECUTION] = Field(
        None,
        description="trained base model that extractor_only and all_parameters build on: its "
        "folder, a bundle, models:/NAME@ALIAS, models:/NAME/NUMBER or runs:/ID/model; content "
        "decides identity",
    )
    protocol: TrainingProtocol = Field(
        "honest",
        description="kar: trains on train and valid, and the test part chooses the epoch; for "
        "comparison with published figures only",
    )

    def identity(self) -> dict[str, Any]:
        """Without what is as it has always been, so that older models stay what they are."""
        identity = super().identity()
        for key in ("averaging", "precision", "protocol"):
            if identity[key] == type(self).model_fields[key].default:
                del identity[key]
        return identity


class RegistryConfig(Section):
    """Where runs and model versions are kept."""

    tracking_uri: Annotated[str | None, EXECUTION] = Field(
        None, description="MLflow; default: MLFLOW_TRACKING_URI, else SQLite in the workspace"
    )
    experiment: Annotated[str, EXECUTION] = Field("lorecast", description="MLflow experiment")
    model_name: Annotated[str, EXECUTION] = Field(
        "lorecast-{name}", description="registered model; {name} is the experiment's name"
    )


class ServingConfig(Section):
    """The HTTP endpoint."""

    host: Annotated[str, EXECUTION] = Field("127.0.0.1", description="address to bind")
    port: Annotated[int, EXECUTION] = Field(8000, ge=1, le=65535, description="TCP port")
    token_env: Annotated[str, EXECUTION] = Field(
        "LORECAST_SERVE_TOKEN",
        min_length=1,
        description="environment variable that holds the bearer token clients must send; not set: "
        "none is asked for",
    )
    access_log: Annotated[bool, EXECUTION] = Field(
        True, description="a line of JSON a request, on the standard output of the replicas"
    )
    replicas: Annotated[Positive, EXECUTION] = Field(
        1, description="scorer processes; with max_replicas the fewest"
    )
    max_replicas: Annotated[Positive | None, EXECUTION] = Field(
        None,
        description="most scorer processes, of which the load decides; none: their number is fixed",
    )
    target_ongoing: Annotated[float, EXECUTION] = Field(
        4.0,
        gt=0.0,
        description="with max_replicas: requests under way a replica from which another is started",
    )
    max_ongoing: Annotated[Positive, EXECUTION] = Field(
        32, description="requests a replica takes at once; it scores one after the other"
    )
    max_queued: Annotated[Positive, EXECUTION] = Field(
        64,
        description="requests that wait when all replicas are full; more are refused with 503 and "
        "Retry-After",
    )
    max_items: Annotated[Positive, EXECUTION] = Field(
        10_000, description="most candidates a request may hold"
    )
    follow_s: Annotated[float, EXECUTION] = Field(
        5.0,
        ge=0.0,
        description="seconds between two looks at the alias that is served, whose new version then "
        "takes over without a pause; 0: what was loaded first stays",
    )
    prestore: Annotated[bool, EXECUTION] = Field(
        True,
        description="a bundle holds what the extractor makes of each entity, instead of vectors; "
        "scores are the same",
    )
    texts: Annotated[bool, EXECUTION] = Field(
        True, description="a bundle holds the texts that its vectors stand for, which `GET /` shows"
    )
    llm_mib: Annotated[float, EXECUTION] = Field(
        512.0,
        ge=0.0,
        description="a bundle of kind sella holds its language model's files up to so many MiB; "
        "larger ones stay where they are, known by their digest",
    )
    gpus: Annotated[float, EXECUTION] = Field(
        0.0, ge=0.0, description="GPUs a replica, for a language model; 0: it runs on the CPU"
    )
    arms: Annotated[dict[ArmName, ArmConfig], EXECUTION] = Field(
        {}, description="by name, models beside the main one: A/B experiments and shadows"
    )
    arms_salt: Annotated[str, EXECUTION] = Field(
        "", description="decides with a user's id who is in which arm; another one draws all anew"
    )
    shadow_log: Annotated[str | None, EXECUTION] = Field(
        None,
        description="where shadows write what they compare, a line of JSON a request with ids and "
        "both scores, at most 256 MiB a replica; none: figures alone",
    )

    @model_validator(mode="after")
    def _arms_leave_room(self) -> Self:
        check_arms(self.arms)
        return self

    @model_validator(mode="after")
    def _at_most_is_no_less_than_at_least(self) -> Self:
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError(
                f"serving.max_replicas is {self.max_replicas}, less than the {self.replicas} of "
                "serving.replicas, which always run"
            )
        return self


class ComputeConfig(Section):
    """Resources and places. Nothing here changes a result's identity."""

    workspace: Annotated[str, EXECUTION] = Field(
        "workspace", description="folder of all artifacts, or s3://BUCKET/PREFIX"
    )
    cache: Annotated[str | None, EXECUTION] = Field(
        None,
        description="with a workspace on S3: folder of this machine's copy of it, or one that all "
        "nodes of a cluster share; default: ~/.cache/lorecast",
    )
    address: Annotated[str | None, EXECUTION] = Field(
        None, description="Ray cluster (auto, ray://…); default: RAY_ADDRESS, else a local one"
    )
    prepare_rows_per_task: Annotated[Positive, EXECUTION] = Field(
        250_000, description="interactions one task holds in memory"
    )
    engines: Annotated[Positive, EXECUTION] = Field(1, description="vLLM actors")
    engine_gpus: Annotated[float, EXECUTION] = Field(0.0, ge=0.0, description="GPUs a vLLM actor")
    engine_batch: Annotated[Positive, EXECUTION] = Field(
        512, description="prompts a vLLM actor takes at once; what a crash may pay twice"
    )
    engine_tensor_parallel: Annotated[Positive, EXECUTION] = Field(
        1, description="GPUs that share one model, for each vLLM actor"
    )
    engine_runner: Annotated[Literal["auto", "blocks", "ray_data_llm"], EXECUTION] = Field(
        "auto",
        description="blocks: vLLM inside our actors; ray_data_llm: Ray's processor; auto: blocks "
        "on CPU, ray_data_llm on GPUs",
    )
    engine_stall_s: Annotated[float, EXECUTION] = Field(
        900.0, gt=0.0, description="an engine that finishes no batch for so long is ended"
    )
    encoders: Annotated[Positive, EXECUTION] = Field(1, description="text encoder actors")
    encoder_gpus: Annotated[float, EXECUTION] = Field(0.0, ge=0.0, description="GPUs an encoder")
    scorers: Annotated[Positive | None, EXECUTION] = Field(
        None, description="actors of `lorecast score`; default: one a core of this machine"
    )
    scorer_gpus: Annotated[float, EXECUTION] = Field(0.0, ge=0.0, description="GPUs a scorer")
    train_workers: Annotated[Positive, EXECUTION] = Field(1, description="data-parallel workers")
    checkpoint_s: Annotated[float, EXECUTION] = Field(
        60.0, ge=0.0, description="least time between two checkpoints of a training"
    )
    train_retries: Annotated[int, EXECUTION] = Field(
        3, ge=0, description="how often training workers that died are started again"
    )
    train_memory_gib: Annotated[float, EXECUTION] = Field(
        8.0, gt=0.0, description="samples of a training worker beyond this are memory-mapped, GiB"
    )
    train_compile: Annotated[bool, EXECUTION] = Field(
        False, description="torch.compile in training; half a minute to start, pays for long ones"
    )
    train_gpus: Annotated[bool, EXECUTION] = Field(False, description="one GPU a training worker")
    tune_trials: Annotated[Positive | None, EXECUTION] = Field(
        None,
        description="trials of a search at once; default: as many as this machine's cores allow at "
        "compute.threads each",
    )
    threads: Annotated[Positive | None, EXECUTION] = Field(
        None, description="torch threads a process; default: in training 1, else an even share"
    )

    @model_validator(mode="after")
    def _workspace_is_a_folder_or_on_s3(self) -> Self:
        try:
            is_remote(self.workspace)
        except ValueError as error:  # of this section, so that no key in it is printed
            raise ValueError(f"compute.workspace {error}") from None
        return self

    @property
    def is_remote(self) -> bool:
        """Whether the workspace lies on object storage."""
        return is_remote(self.workspace)

    @property
    def folder(self) -> Path:
        """Where the workspace lies on this machine."""
        return local_folder(self.workspace, self.cache)

    def check_shared(self, cluster: str) -> None:
        """Raises ConfigError if the nodes of a cluster would not see one copy of the workspace."""
        if self.is_remote and not (self.cache and Path(self.cache).is_absolute()):
            raise ConfigError(
                f"compute.workspace is {self.workspace}, of which the nodes of {cluster} share one "
                "copy: name a folder that all of them see, e.g. compute.cache=/mnt/shared"
            )


class ExperimentConfig(Section):
    """One experiment, whole."""

    name: str = Field("world", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="its name")
    dataset: DatasetConfig = Field(DatasetConfig(), description="interactions to samples")
    knowledge: KnowledgeConfig = Field(KnowledgeConfig(), description="texts by LLMs")
    encoding: EncodingConfig = Field(EncodingConfig(), description="texts to vectors")
    model: ModelConfig = Field(ModelConfig(), description="backbone and extractor")
    training: TrainingConfig = Field(TrainingConfig(), description="strategies and schedule")
    tune: SearchConfig = Field(SearchConfig(), description="the search of `lorecast tune`")
    reranking: RerankingConfig = Field(RerankingConfig(), description="lists and their re-ranker")
    sella: SellaConfig | None = Field(
        None, description="present: a language model that recommends is trained, instead of `model`"
    )
    registry: RegistryConfig = Field(RegistryConfig(), description="MLflow")
    promotion: PromotionConfig = Field(PromotionConfig(), description="the gate to champion")
    serving: ServingConfig = Field(ServingConfig(), description="HTTP endpoint")
    compute: ComputeConfig = Field(ComputeConfig(), description="resources and places")

    @model_validator(mode="after")
    def _extractor_fits_a_trained_backbone(self) -> Self:
        training, model = self.training, self.model
        if "extractor_only" in training.strategies:
            builds = "training.strategies has 'extractor_only'"
        elif "all_parameters" in training.strategies and training.backbone_from is not None:
            builds = "training.backbone_from names a trained backbone"
        else:
            return self
        if model.injection == "residual" and not (model.extractor == "kser" and model.kser.align):
            raise ValueError(
                f"{builds}, for which model.extractor must be 'kser' with model.kser.align: others "
                "add fields that a trained backbone lacks; model.injection=widen or logit takes "
                "them"
            )
        if model.injection == "widen" and not (model.backbone in WITH_MLP and model.mlp_hidden):
            raise ValueError(
                f"model.injection is 'widen', and {model.backbone} has no MLP with a first layer "
                f"to widen; take residual or logit, or one of {', '.join(WITH_MLP)} with "
                "model.mlp_hidden"
            )
        if model.item_field:
            raise ValueError(
                f"{builds}, which model.item_field rules out: it adds a field that a trained "
                "backbone lacks"
            )
        return self

    @model_validator(mode="after")
    def _a_trained_extractor_stays_as_it_is(self) -> Self:
        if self.model.extractor_from is None:
            return self
        if "extractor_only" in self.training.strategies:
            raise ValueError(
                "training.strategies has 'extractor_only', which trains an extractor, and "
                "model.extractor_from names a trained one: take all_parameters"
            )
        if self.training.backbone_from is not None:
            raise ValueError(
                "model.extractor_from names a trained extractor, and training.backbone_from a "
                "backbone that was trained without it: drop one of them"
            )
        if self.model.item_field:
            raise ValueError(
                "model.extractor_from takes over an extractor, and model.item_field is none: "
                "drop one of them"
            )
        return self
