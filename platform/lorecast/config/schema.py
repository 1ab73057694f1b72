"""The experiment: one frozen, typed document; unknown keys are errors.

Every field carries a one-line description with its unit. A field marked `EXECUTION` says where or
how fast work is done, never what comes out: it stays out of every fingerprint. The defaults are
the embedded world's experiment, so `ExperimentConfig()` is complete and runs.
"""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Execution:
    """Marker: the field is execution, not identity."""


EXECUTION = _Execution()

Side = Literal["user", "item"]
Strategy = Literal["base", "all_parameters", "extractor_only"]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A frozen part of the experiment."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def identity(self) -> dict[str, Any]:
        """The part that decides the result: all fields but the execution ones, as plain values."""

        def plain(value: Any) -> Any:
            if isinstance(value, Section):
                return value.identity()
            if isinstance(value, (tuple, list)):
                return [plain(v) for v in value]
            if isinstance(value, dict):
                return {key: plain(v) for key, v in value.items()}
            return value

        return {
            name: plain(getattr(self, name))
            for name, field in type(self).model_fields.items()
            if EXECUTION not in field.metadata
        }


# ── dataset ──────────────────────────────────────────────────────────────────────────────────


class InteractionColumns(Section):
    """Where the clicks are and what their columns are called."""

    file: str = Field(description="Parquet or CSV file, or a folder of them, below dataset.path")
    user: str = Field("user_id", description="column of the user's id (string or integer)")
    item: str = Field("item_id", description="column of the item's id (string or integer)")
    label: str | None = Field(None, description="column of the 0/1 label; else give `rating`")
    rating: str | None = Field(None, description="column of the rating, cut by positive_rating")
    timestamp: str = Field("timestamp", description="column of the time: seconds or a timestamp")
    order: str | None = Field(
        None, description="column with each row's rank inside its user; default: the timestamp"
    )


class EntityColumns(Section):
    """Where users or items are described."""

    file: str = Field(description="Parquet or CSV file below dataset.path")
    id: str = Field(description="column of the id, the same ids as in the interactions")
    title: str | None = Field(None, description="column with the name shown to the LLM (items)")
    text: tuple[str, ...] = Field((), description="further columns that prompts may show")
    features: tuple[str, ...] = Field(
        (), description="categorical columns that the click model embeds"
    )


class SplitConfig(Section):
    """How samples are parted; there is always a validation part."""

    by: Literal["user", "time", "column"] = Field(
        "user",
        description="user: whole users; time: the latest samples; column: as a column says",
    )
    valid: Fraction = Field(0.1, description="share of users (user) or of samples (time)")
    test: Fraction = Field(0.1, description="share of users (user) or of samples (time)")
    column: str | None = Field(
        None,
        description="interaction column with train, valid, test, or nothing for rows that only "
        "histories use (by: column)",
    )
    seed: int = Field(0, description="seed of the shuffle of users (by: user)")

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.by == "column" and self.column is None:
            raise ValueError("split.by is 'column': name it in split.column")
        if self.by != "column" and not (
            self.valid > 0 and self.test > 0 and self.valid + self.test < 1
        ):
            raise ValueError("split.valid and split.test must be above 0 and leave rows to train")
        return self


class DatasetConfig(Section):
    """Which interactions, and how they become samples."""

    source: Literal["world", "movielens", "tables"] = Field(
        "world", description="world: the embedded one; movielens: a folder; tables: your own"
    )
    path: Annotated[str | None, EXECUTION] = Field(
        None, description="folder with the tables (movielens, tables); content decides identity"
    )
    world_seed: int = Field(
        7, description="seed of the embedded world; its shipped LLM knows the world of seed 7"
    )
    interactions: InteractionColumns | None = Field(None, description="mapping (source: tables)")
    users: EntityColumns | None = Field(None, description="mapping (source: tables), optional")
    items: EntityColumns | None = Field(None, description="mapping (source: tables), optional")
    positive_rating: float = Field(4.0, description="label is 1 from this rating on")
    history_length: Positive = Field(10, description="interactions before the sample, L")
    prefix_share: Fraction = Field(
        0.5, description="share of a user's interactions, the earliest, that prompts may show"
    )
    prefix_max: int = Field(30, ge=0, description="at most so many of them, in interactions")
    split: SplitConfig = Field(SplitConfig(), description="train, valid and test")
    max_bad_rows: Annotated[Fraction, EXECUTION] = Field(
        0.01, description="share of rejected rows of a table that stops the run"
    )

    @model_validator(mode="after")
    def _source_is_described(self) -> Self:
        if self.source == "tables" and self.interactions is None:
            raise ValueError("source is 'tables': describe the clicks in dataset.interactions")
        if self.source != "tables" and (self.interactions or self.users or self.items):
            raise ValueError(
                f"source is {self.source!r}, whose columns are known: "
                "interactions, users and items are mapped for source 'tables' only"
            )
        return self


# ── knowledge ────────────────────────────────────────────────────────────────────────────────


class CollectiveConfig(Section):
    """Entities in groups; a group is asked about once, and its members share the answers (REKI)."""

    clusters: Positive = Field(100, description="groups the entities are parted into, k")
    represent: Literal["text", "clicks", "knowledge"] = Field(
        "text",
        description="what makes entities alike: text (encoded titles; users by the titles they "
        "rated), clicks (who rated what, up to the cut-off, factorized) or knowledge (groups of "
        "their own for each factor, by what individual answers say about items, spread along "
        "clicks)",
    )
    assign: Literal["nearest", "mix"] = Field(
        "nearest", description="mix: the two nearest groups' vectors, weighted by similarity"
    )
    head: Fraction = Field(
        0.0, description="share of the entities, the most clicked, that are asked individually"
    )
    shown: Positive = Field(12, description="members' titles a group prompt shows, of each kind")
    dim: Positive = Field(32, description="width of the vectors (represent: clicks, knowledge)")
    seed: int = Field(0, description="seed of k-means")
    groups: str | None = Field(
        None,
        description="folder of an earlier generate artifact: keep its groups, entities join the "
        "nearest without a call",
    )


class GeneratedField(Section):
    """A field the LLM writes, after the factors of a factor set."""

    kind: Literal["generate"] = Field("generate", description="the LLM writes it")
    name: str = Field(description="name of the field, unique in the experiment")
    side: Side = Field(description="user or item")
    factor_set: str = Field(
        "world", description="shipped set (world, films, books, news, music, products) or a folder"
    )
    factors: tuple[str, ...] = Field((), description="only these factors; empty: all of the side")
    answer: Literal["factor", "json", "text"] = Field(
        "factor",
        description="factor: a call and an answer each; json: one call, an object with all "
        "factors; text: one call, prose cut to sentences",
    )
    max_chunks: Positive = Field(
        8, description="sentences are grouped to at most so many chunks (answer: text)"
    )
    extraction: Literal["individual", "collective"] = Field(
        "individual", description="a call an entity, or a call a group of alike entities"
    )
    collective: CollectiveConfig = Field(
        CollectiveConfig(), description="the groups (extraction: collective)"
    )

    @model_validator(mode="after")
    def _groups_fit_the_answers(self) -> Self:
        by_knowledge = self.extraction == "collective" and self.collective.represent == "knowledge"
        if by_knowledge and self.answer != "factor":
            raise ValueError(
                "collective.represent is 'knowledge', whose groups differ by factor: set answer "
                "to 'factor'"
            )
        return self


class ImportedField(Section):
    """A field whose texts exist already, cut to chunks by sentences."""

    kind: Literal["import"] = Field(description="the texts exist")
    name: str = Field(description="name of the field, unique in the experiment")
    side: Side = Field(description="user or item")
    file: str = Field(description="Parquet, CSV, JSON lines or KAR's JSON, below dataset.path")
    id: str = Field("id", description="column of the entity's id")
    text: str = Field("text", description="column of the text")
    where: dict[str, str] = Field({}, description="keep rows whose columns have these values")
    max_chunks: Positive = Field(8, description="sentences are grouped to at most so many chunks")
    history_end: str | None = Field(
        None, description="user side: column with the last interaction rank the writer saw"
    )


KnowledgeField = Annotated[GeneratedField | ImportedField, Field(discriminator="kind")]


class LLMConfig(Section):
    """The language model behind generated fields."""

    model: str = Field("world", description="world (the embedded LLM), a folder or a hub name")
    revision: str | None = Field(None, description="hub revision, pinned for reproducibility")
    lora: str | None = Field(None, description="folder of a LoRA adapter for the model (vllm)")
    max_model_len: Positive = Field(256, description="prompt and answer together, in tokens")
    max_tokens: Positive = Field(32, description="length of one answer, in tokens")
    temperature: float = Field(0.0, ge=0.0, description="0 is greedy")
    top_p: float = Field(1.0, gt=0.0, le=1.0, description="nucleus sampling; 1 is off")
    seed: int = Field(0, description="seed of sampling")
    dtype: str = Field("bfloat16", description="weights' type in vLLM")
    language: str | None = Field(
        None, description="ISO 639-1 code, e.g. en: longer answers in another one are left out"
    )
    engine: Annotated[Literal["vllm", "openai"], EXECUTION] = Field(
        "vllm", description="vllm: actors of ours; openai: an OpenAI-compatible endpoint"
    )
    base_url: Annotated[str, EXECUTION] = Field(
        "http://127.0.0.1:8000/v1", description="the endpoint (engine: openai)"
    )
    api_key_env: Annotated[str, EXECUTION] = Field(
        "OPENAI_API_KEY", description="environment variable that holds its key, if it wants one"
    )
    requests_per_s: Annotated[float | None, EXECUTION] = Field(
        None, gt=0.0, description="at most so many calls a second, over all actors"
    )
    concurrency: Annotated[Positive, EXECUTION] = Field(
        32, description="calls in flight, over all actors (engine: openai)"
    )
    timeout_s: Annotated[float, EXECUTION] = Field(
        120.0, gt=0.0, description="a call that takes longer is tried again (engine: openai)"
    )
    retry_s: Annotated[float, EXECUTION] = Field(
        600.0, ge=0.0, description="how long a call is tried while the endpoint is busy or down"
    )


class KnowledgeConfig(Section):
    """What is asked of LLMs, or taken from texts that exist."""

    fields: tuple[KnowledgeField, ...] = Field(
        (
            GeneratedField(name="item_facts", side="item"),
            GeneratedField(name="user_preference", side="user"),
        ),
        description="the kinds of knowledge",
    )
    llm: LLMConfig = Field(LLMConfig(), description="the language model")
    prompt_history: Positive = Field(
        10, description="rated titles a user prompt shows, the last before the cut-off"
    )
    error_budget: Annotated[Fraction, EXECUTION] = Field(
        0.05, description="share of failed prompts that fails the stage"
    )

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        names = [field.name for field in self.fields]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"knowledge.fields has {doubled[0]!r} twice: rename one")
        return self


# ── encoding, model, training ────────────────────────────────────────────────────────────────


class EncodingConfig(Section):
    """Texts to vectors."""

    model: str = Field(
        "all-MiniLM-L6-v2", description="installed encoder, a local folder or a hub name"
    )
    max_tokens: Positive = Field(256, description="longer texts are cut, in tokens")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="arithmetic of encoding")
    where: dict[str, tuple[float | None, float | None]] = Field(
        {},
        description="quality bounds by column (words, copies, near_copies, echo), e.g. "
        "{copies: [1, 200], words: [3, null]}; texts outside become no vectors",
    )

    quality_columns: ClassVar = ("words", "copies", "near_copies", "echo")
    """What `where` may name (`lorecast.knowledge.quality`)."""

    @model_validator(mode="after")
    def _bounds_are_known(self) -> Self:
        for column, (low, high) in self.where.items():
            if column not in self.quality_columns:
                raise ValueError(
                    f"encoding.where names {column!r}, which is no quality column; there are "
                    f"{', '.join(self.quality_columns)}"
                )
            if low is not None and high is not None and low > high:
                raise ValueError(
                    f"encoding.where.{column}: [{low:g}, {high:g}] leaves nothing; write "
                    "[lowest, highest], null for no bound"
                )
        return self

    def identity(self) -> dict[str, Any]:
        identity = super().identity()
        if not self.where:
            del identity["where"]
        return identity


class KSERConfig(Section):
    """ESFNet and attention alignment (KSER)."""

    dim: Positive = Field(32, description="width of the work space, d")
    heads: Positive = Field(4, description="attention heads")
    layers: Positive = Field(1, description="attention layers")
    gate_hidden: Positive = Field(128, description="hidden width of ESFNet")
    dropout: Fraction = Field(0.1, description="dropout in attention and feed-forward")
    gate: bool = Field(True, description="false: without ESFNet, every chunk as it is")
    align: bool = Field(True, description="false: without attention, the mean of a side's chunks")

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.dim % self.heads:
            raise ValueError("model.kser.dim must be a multiple of model.kser.heads")
        return self

    def identity(self) -> dict[str, Any]:
        identity = super().identity()
        for part in ("gate", "align"):
            if identity[part]:
                del identity[part]
        return identity


class HEINConfig(Section):
    """Experts (HEIN, KAR's hybrid-expert adaptor)."""

    shared: Positive = Field(2, description="experts that both sides use")
    dedicated: Positive = Field(6, description="experts of one side, for each side")
    hidden: Positive = Field(128, description="hidden width of an expert")
    dropout: Fraction = Field(0.0, description="dropout in experts")


class DIENConfig(Section):
    """Interest evolution."""

    evolution: Literal["gru", "aigru", "agru", "augru"] = Field(
        "aigru",
        description="where attention enters the second GRU: after it (gru), at its input (aigru), "
        "as its update gate (agru) or scaling that (augru)",
    )


class CrossConfig(Section):
    """The cross network of DCN and what came of it."""

    layers: Positive = Field(3, description="cross layers")


class XDeepFMConfig(Section):
    """Compressed interactions."""

    maps: tuple[Positive, ...] = Field((50, 50), min_length=1, description="feature maps a layer")


class AutoIntConfig(Section):
    """Self-attention over fields."""

    layers: Positive = Field(3, description="attention layers")
    heads: Positive = Field(1, description="attention heads")
    width: Positive = Field(64, description="width of a field after a layer")

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.width % self.heads:
            raise ValueError("model.autoint.width must be a multiple of model.autoint.heads")
        return self


class FiGNNConfig(Section):
    """Messages between fields."""

    steps: Positive = Field(2, description="rounds of messages")


_WITH_MLP = ("din", "dien", "dcn", "dcnv2", "deepfm", "xdeepfm", "fibinet", "gdcn", "finalnet")
_READ_BY = {
    "attention_hidden": ("din", "dien"),
    "mlp_hidden": _WITH_MLP,
    "dropout": _WITH_MLP,
    "dien": ("dien",),
    "cross": ("dcn", "dcnv2", "gdcn"),
    "xdeepfm": ("xdeepfm",),
    "autoint": ("autoint",),
    "fignn": ("fignn",),
}
"""Keys of the model that only these backbones read; they are no part of another one's identity."""


class ModelConfig(Section):
    """The click model."""

    backbone: Literal[
        "din",
        "dien",
        "dcn",
        "dcnv2",
        "deepfm",
        "xdeepfm",
        "autoint",
        "fibinet",
        "fignn",
        "gdcn",
        "finalnet",
    ] = Field("din", description="interaction part")
    embedding_dim: Positive = Field(32, description="width of a feature embedding, E")
    attention_hidden: tuple[Positive, ...] = Field(
        (32, 16), description="attention MLP of DIN, DIEN"
    )
    mlp_hidden: tuple[Positive, ...] = Field(
        (200, 80), description="head MLP and deep network (all but AutoInt, FiGNN)"
    )
    dropout: Fraction = Field(0.0, description="dropout in the head MLP")
    dien: DIENConfig = Field(DIENConfig(), description="backbone: dien")
    cross: CrossConfig = Field(CrossConfig(), description="backbone: dcn, dcnv2, gdcn")
    xdeepfm: XDeepFMConfig = Field(XDeepFMConfig(), description="backbone: xdeepfm")
    autoint: AutoIntConfig = Field(AutoIntConfig(), description="backbone: autoint")
    fignn: FiGNNConfig = Field(FiGNNConfig(), description="backbone: fignn")
    extractor: Literal["kser", "hein", "moe", "mlp", "naive", "mean"] = Field(
        "kser", description="how vectors become features; moe, mlp, naive, mean: plainer controls"
    )
    kser: KSERConfig = Field(KSERConfig(), description="extractor: kser; mean uses its dim")
    hein: HEINConfig = Field(HEINConfig(), description="extractor: hein, moe, mlp (its experts)")
    shuffle_knowledge: bool = Field(
        False, description="a control: entities get each other's texts, always the same ones"
    )

    def identity(self) -> dict[str, Any]:
        """What the extractor does not read is left out. `extractor` and `kser` alone say how
        knowledge is used; a bare backbone drops these two."""
        identity = super().identity()
        for key, backbones in _READ_BY.items():
            if self.backbone not in backbones:
                del identity[key]
        own = {"hein": identity.pop("hein"), "shuffled": identity.pop("shuffle_knowledge")}
        if self.extractor not in ("hein", "moe", "mlp"):
            del own["hein"]
        if not self.shuffle_knowledge:
            del own["shuffled"]
        if own:
            identity["extractor"] = {"name": self.extractor, **own}
        if self.extractor not in ("kser", "mean"):
            identity["kser"] = None
        return identity


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


# ── lifecycle and execution ──────────────────────────────────────────────────────────────────


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
    replicas: Annotated[Positive, EXECUTION] = Field(1, description="scorer processes")
    max_items: Annotated[Positive, EXECUTION] = Field(
        10_000, description="most candidates a request may hold"
    )


class ComputeConfig(Section):
    """Resources and places. Nothing here changes a result's identity."""

    workspace: Annotated[str, EXECUTION] = Field("workspace", description="folder of all artifacts")
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
    train_workers: Annotated[Positive, EXECUTION] = Field(1, description="data-parallel workers")
    train_gpus: Annotated[bool, EXECUTION] = Field(False, description="one GPU a training worker")
    threads: Annotated[Positive | None, EXECUTION] = Field(
        None, description="torch threads a process; default: in training 1, else an even share"
    )


class ExperimentConfig(Section):
    """One experiment, whole."""

    name: str = Field("world", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="its name")
    dataset: DatasetConfig = Field(DatasetConfig(), description="interactions to samples")
    knowledge: KnowledgeConfig = Field(KnowledgeConfig(), description="texts by LLMs")
    encoding: EncodingConfig = Field(EncodingConfig(), description="texts to vectors")
    model: ModelConfig = Field(ModelConfig(), description="backbone and extractor")
    training: TrainingConfig = Field(TrainingConfig(), description="strategies and schedule")
    registry: RegistryConfig = Field(RegistryConfig(), description="MLflow")
    serving: ServingConfig = Field(ServingConfig(), description="HTTP endpoint")
    compute: ComputeConfig = Field(ComputeConfig(), description="resources and places")

    @model_validator(mode="after")
    def _strategies_fit_the_extractor(self) -> Self:
        shifts = self.model.extractor == "kser" and self.model.kser.align
        if "extractor_only" in self.training.strategies and not shifts:
            raise ValueError(
                "training.strategies has 'extractor_only', for which model.extractor must be "
                "'kser' with model.kser.align: others add fields that a trained backbone lacks"
            )
        return self
