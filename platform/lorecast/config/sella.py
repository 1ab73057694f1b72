"""A language model that recommends, guided by collaborative tokens (SeLLa-Rec)."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from lorecast.config.section import EXECUTION, Fraction, Positive, Section

Method = Literal[
    "mf",
    "text",
    "collm",
    "sella",
    "no_alignment",
    "no_warm_start",
    "no_warm_token",
    "no_id_tokens",
    "one_stage",
]


class PromptConfig(Section):
    """What the language model reads. Each text is tokenized on its own, titles once an item."""

    history_titles: Positive = Field(10, description="newest liked titles that a prompt shows")
    system: str = Field(
        "The user gave high ratings to the movies in a list. Given the list and a target movie, "
        "with features of user and movie if there are any, decide whether the user will like it. "
        "Answer 'Yes.' or 'No.'.",
        description="the system's turn; empty: none",
    )
    history: str = Field("MovieList: [{titles}]", description="the liked titles, oldest first")
    title: str = Field("'{title}'", description="one of them")
    title_tokens: Positive = Field(48, description="longer titles are cut, in tokens")
    separator: str = Field(", ", description="between two of them")
    no_history: str = Field("MovieList: []", description="instead, where nothing was liked")
    user: str = Field(". The user's feature is {token}", description="around <User_ID>")
    item: str = Field(". The target movie's feature is {token}", description="around <Item_ID>")
    warm: str = Field(", {token}", description="around <Warm_ID>")
    target: str = Field(". TargetMovie: {title}", description="the question's end")
    vector: str = Field("Movie: {title}", description="what an item's semantic vector is of")

    @model_validator(mode="after")
    def _holes_are_there(self) -> Self:
        holes = {
            "history": "{titles}",
            "title": "{title}",
            "user": "{token}",
            "item": "{token}",
            "warm": "{token}",
            "target": "{title}",
            "vector": "{title}",
        }
        for key, hole in holes.items():
            if getattr(self, key).count(hole) != 1:
                raise ValueError(f"sella.prompt.{key} must hold {hole} once")
        return self


class LoRAConfig(Section):
    """Low-rank adapters (peft). A third party found rank 8 on q_proj and v_proj the better one."""

    rank: Positive = Field(64, description="r")
    alpha: Positive = Field(16, description="updates are scaled by alpha / r")
    dropout: Fraction = Field(0.05, description="before the adapters, in training")
    targets: tuple[str, ...] = Field(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        min_length=1,
        description="linear layers that get one; those the model lacks are left out",
    )


class ScheduleConfig(Section):
    """One training of the language model's inputs or adapters."""

    epochs: Positive = Field(1, description="passes over the rows")
    rows: Positive | None = Field(
        None, description="training rows of a pass, drawn by the seed; none: all"
    )
    batch_size: Positive = Field(128, description="rows a step, over all workers")
    learning_rate: float = Field(gt=0.0, description="AdamW's peak; cosine to 0 at the end")
    warmup: Fraction = Field(0.01, description="share of the steps with a rising rate")
    weight_decay: float = Field(0.01, ge=0.0, description="AdamW's")
    checks: Positive = Field(4, description="validations a pass; the best one's weights are kept")


class TuneConfig(ScheduleConfig):
    """Stage 1: LoRA on Yes/No."""

    learning_rate: float = Field(8e-5, gt=0.0, description="AdamW's peak; cosine to 0 at the end")


class AlignConfig(Section):
    """Stage 2.2: a collaborative model whose items are drawn to their semantic vectors."""

    model: Literal["mf", "lightgcn"] = Field("mf", description="what users and items become")
    layers: Positive = Field(2, description="hops (model: lightgcn)")
    dim: Positive = Field(256, description="width of users and items")
    hidden: Positive = Field(1024, description="hidden width of the projection")
    temperature: float = Field(0.2, gt=0.0, description="of the contrast")
    weight: float = Field(1.0, ge=0.0, description="of the contrast against the labels' loss")
    epochs: Positive = Field(200, description="at most so many passes")
    patience: Positive = Field(10, description="epochs without a better validation AUC")
    batch_size: Positive = Field(1024, description="rows a step, over all workers")
    learning_rate: float = Field(1e-3, gt=0.0, description="AdamW's; Adam's where faithful")
    weight_decay: float = Field(1.0, ge=0.0, description="AdamW's; Adam's L2 where faithful")


class GuideConfig(ScheduleConfig):
    """Stage 3: tokens for user, item and warmth before a frozen language model."""

    learning_rate: float = Field(2e-4, gt=0.0, description="AdamW's peak; cosine to 0 at the end")
    warmup: Fraction = Field(0.0, description="share of the steps with a rising rate")
    norm_match: bool = Field(
        True,
        description="learned scales, at first such that tokens are as long as the model's own",
    )
    unknown_share: Fraction = Field(
        0.1, description="training rows whose user, or item, is hidden: what a cold one looks like"
    )


class SellaConfig(Section):
    """SeLLa-Rec: its stages, its baselines, its language model."""

    methods: tuple[Method, ...] = Field(
        ("mf", "text", "collm", "sella"),
        min_length=1,
        description="what is trained and compared, the reference first: mf, text (stage 1 alone), "
        "collm, sella; no_alignment, no_warm_start, no_warm_token, no_id_tokens, one_stage",
    )
    model: str = Field("world", description="world (the embedded LLM), a folder or a hub name")
    revision: str | None = Field(None, description="hub revision, pinned for reproducibility")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="frozen weights' type")
    prompt: PromptConfig = Field(PromptConfig(), description="wording")
    lora: LoRAConfig = Field(LoRAConfig(), description="adapters")
    tune: TuneConfig = Field(TuneConfig(), description="stage 1")
    align: AlignConfig = Field(AlignConfig(), description="stage 2.2")
    guide: GuideConfig = Field(GuideConfig(), description="stage 3")
    valid_rows: Positive | None = Field(
        None,
        description="validation rows that choose a language model's weights, drawn once; none: "
        "all, as for the collaborative model",
    )
    faithful: bool = Field(
        False,
        description="as the published code: loss over all tokens, two softmaxes, right padding, "
        "dummy title, truncated item vectors that train, robust contrast, no hidden rows",
    )
    micro_batch: Annotated[Positive, EXECUTION] = Field(
        128, description="rows at once in a worker; gradients of a step add up"
    )
    gradient_checkpointing: Annotated[bool, EXECUTION] = Field(
        False,
        description="layers are run again for their gradients: a third more work, and activations "
        "of one layer at a time (models of billions of weights)",
    )
    sharding: Annotated[Literal["ddp", "fsdp"], EXECUTION] = Field(
        "ddp",
        description="of training workers: ddp, each holds the whole language model; fsdp, each "
        "holds a part of its frozen layers",
    )
    score_batch: Annotated[Positive, EXECUTION] = Field(256, description="rows at once in scoring")
    scorers: Annotated[Positive, EXECUTION] = Field(1, description="scoring actors")
    score_engine: Annotated[Literal["torch", "vllm"], EXECUTION] = Field(
        "torch",
        description="what scores the test part: torch, or vLLM with prompts as embeddings",
    )

    def of_model(self) -> dict[str, Any]:
        """What every stage with the language model depends on."""
        return {
            "dtype": self.dtype,
            "prompt": self.prompt.identity(),
            "faithful": self.faithful,
        }
