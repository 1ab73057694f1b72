"""What is asked of language models or imported, and how texts become vectors."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from lorecast.config.section import EXECUTION, Fraction, Positive, Section, Side


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
    key: str = Field(
        "id",
        description="what those ids are: the users' or items' own (id), or the column of theirs "
        "that holds them, one of dataset.users.text or dataset.items.text",
    )
    text: str = Field("text", description="column of the text")
    where: dict[str, str] = Field({}, description="keep rows whose columns have these values")
    max_chunks: Positive = Field(8, description="sentences are grouped to at most so many chunks")
    history_end: str | None = Field(
        None, description="user side: column with the last interaction rank the writer saw"
    )

    def identity(self) -> dict[str, Any]:
        """`key` counts only where it is not the usual one: older knowledge stays what it is."""
        identity = super().identity()
        if self.key == "id":
            del identity["key"]
        return identity


class VectorsField(Section):
    """A field whose vectors exist already: what SeLLa-Rec's trainings make of items, one chunk."""

    kind: Literal["vectors"] = Field(description="the vectors exist")
    name: str = Field(description="name of the field, unique in the experiment")
    side: Literal["item"] = Field(
        "item", description="items alone: what is trained of a user has seen the user's samples"
    )
    folder: Annotated[str, EXECUTION] = Field(
        description="a sella-vectors or sella-guide artifact of the same dataset; content decides "
        "identity"
    )


KnowledgeField = Annotated[
    GeneratedField | ImportedField | VectorsField, Field(discriminator="kind")
]


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
    certainty: bool = Field(
        False, description="keep how sure the model was of each text (log-probabilities)"
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

    def identity(self) -> dict[str, Any]:
        """`certainty` counts only where it is asked for: older knowledge stays what it is."""
        identity = super().identity()
        if not self.certainty:
            del identity["certainty"]
        return identity


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
    components: Positive | None = Field(
        None,
        description="keep only so many principal components of the vectors; null: the encoder's "
        "whole width",
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
        """What is not asked for does not count: older vectors stay what they are."""
        identity = super().identity()
        if not self.where:
            del identity["where"]
        if self.components is None:
            del identity["components"]
        return identity
