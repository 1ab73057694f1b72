"""Which artifacts SeLLa's methods are made of: specs, and what is to be done for each.

    sella-tune  → sella-vectors → sella-align → sella-guide → sella-score
    (adapters)    (item meaning)  (tables)      (tokens)      (scores.parquet of the test part)

A method takes the stages it needs; methods share what they have in common.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lorecast.artifacts import StageSpec
from lorecast.config import ExperimentConfig, SellaConfig
from lorecast.config.sella import Method
from lorecast.data.dataset import Dataset
from lorecast.errors import ConfigError, EngineError, TrainingError
from lorecast.knowledge.language_model import LanguageModel, find_language_model
from lorecast.sella.methods import Switches, switches
from lorecast.sella.recipe import Setting, Stage

TUNE, VECTORS, ALIGN, GUIDE, SCORE = (
    f"sella-{stage}" for stage in ("tune", "vectors", "align", "guide", "score")
)
_LAYOUT = 1


@dataclass(frozen=True)
class Plan:
    """A training that is to be done, and how."""

    spec: StageSpec
    stage: Stage


@dataclass(frozen=True)
class Model:
    """A method with a seed."""

    method: Method
    seed: int

    @property
    def switches(self) -> Switches:
        return switches(self.method)

    @property
    def vectors_seed(self) -> int | None:
        """Of the tuned model that its items' vectors come from; none: the model as it comes."""
        return None if self.switches.one_stage else self.seed


def model_source(config: SellaConfig) -> str:
    """Folder or hub name of the language model."""
    from lorecast.world import llm_path

    return str(llm_path()) if config.model == "world" else config.model


class Plans:
    """Which artifacts an experiment's methods are made of."""

    def __init__(
        self,
        config: ExperimentConfig,
        dataset: Dataset,
        language_model: LanguageModel | None = None,
    ) -> None:
        """`language_model`: instead of what `sella.model` names."""
        assert config.sella is not None
        self._language_model = language_model
        self.experiment, self.dataset = config, dataset
        self.config: SellaConfig = config.sella
        self.workspace = config.compute.folder.resolve()

    @cached_property
    def language_model(self) -> LanguageModel:
        """Raises TrainingError if the folder is missing or incomplete."""
        if self._language_model is not None:
            return self._language_model
        source, memo = model_source(self.config), self.workspace / ".digests"
        try:
            return find_language_model(source, self.config.revision, memo=memo)
        except EngineError as error:
            text = str(error).replace("knowledge.llm.model", "sella.model")
            raise TrainingError(text) from None

    @property
    def models(self) -> tuple[Model, ...]:
        """Every method with every seed. Raises ConfigError for a protocol that SeLLa lacks."""
        training = self.experiment.training
        if training.protocol == "kar":
            raise ConfigError("training.protocol is 'kar', and sella has no such protocol: drop it")
        return tuple(Model(m, seed) for seed in training.seeds for m in self.config.methods)

    @property
    def vectors_seeds(self) -> set[int | None]:
        """Seeds of the tuned models whose vectors are needed; none: the model as it comes."""
        using = (m for m in self.models if m.switches.aligned or m.switches.warm_token)
        return {model.vectors_seed for model in using}

    @property
    def setting(self) -> Setting:
        """What all stages share."""
        model = self.language_model
        return Setting(
            config=self.config,
            positive_rating=self.experiment.dataset.positive_rating,
            source=model.source,
            digest=model.digest,
        )

    def tune(self, seed: int) -> Plan:
        """Stage 1."""
        config = self.config
        identity = {**self._of_rows("text"), "lora": config.lora.identity()}
        identity |= {"schedule": config.tune.identity(), "seed": seed}
        spec = self._spec(TUNE, f"s{seed}", identity, {"llm": self.language_model.digest})
        return Plan(spec, Stage(kind="tune", seed=seed, method=switches("text")))

    def vectors(self, seed: int | None) -> StageSpec:
        """Stage 2.1, by the model tuned with that seed (none: as it comes)."""
        identity = {
            "vector": self.config.prompt.vector,
            "title_tokens": self.config.prompt.title_tokens,
            "dtype": self.config.dtype,
            "faithful": self.config.faithful,
        }
        inputs = {"llm": self.language_model.digest}
        if seed is not None:
            inputs["tune"] = self.tune(seed).spec.fingerprint
        return self._spec(VECTORS, "base" if seed is None else f"s{seed}", identity, inputs)

    def align(self, seed: int, method: Switches) -> Plan:
        """Stage 2.2."""
        config = self.config
        align = config.align.identity()
        if config.align.model != "lightgcn":
            del align["layers"]
        inputs, folder = {}, None
        if method.aligned:
            vectors = self.vectors(None if method.one_stage else seed)
            inputs, folder = {"vectors": vectors.fingerprint}, vectors.folder(self.workspace)
        else:
            for key in ("hidden", "temperature", "weight"):
                del align[key]
        identity = {"align": align, "faithful": config.faithful, "seed": seed}
        label = f"{'aligned' if method.aligned else config.align.model}-s{seed}"
        stage = Stage(kind="align", seed=seed, method=method, vectors=folder)
        return Plan(self._spec(ALIGN, label, identity, inputs), stage)

    def guide(self, model: Model) -> Plan:
        """Stage 3."""
        config, switched = self.config, model.switches
        identity = {**self._of_rows(model.method), "schedule": config.guide.identity()}
        identity |= {"align": {"dim": config.align.dim, "hidden": config.align.hidden}}
        identity |= {"seed": model.seed, "warm_start": switched.warm_start}
        specs: dict[str, StageSpec] = {}
        if switched.one_stage:
            identity["lora"] = config.lora.identity()
        else:
            specs["tuned"] = self.tune(model.seed).spec
        if switched.id_tokens:
            specs["aligned"] = self.align(model.seed, switched).spec
        if switched.warm_token:
            specs["vectors"] = self.vectors(model.vectors_seed)
        inputs = {"llm": self.language_model.digest}
        inputs |= {role: spec.fingerprint for role, spec in specs.items()}
        folders = {role: spec.folder(self.workspace) for role, spec in specs.items()}
        spec = self._spec(GUIDE, f"{model.method}-s{model.seed}", identity, inputs)
        return Plan(spec, Stage(kind="guide", seed=model.seed, method=switched, **folders))

    def last(self, model: Model) -> Plan:
        """The last training of a model."""
        if model.method == "mf":
            return self.align(model.seed, model.switches)
        return self.tune(model.seed) if model.method == "text" else self.guide(model)

    def score(self, model: Model) -> StageSpec:
        """The test part scored."""
        inputs = {"model": self.last(model).spec.fingerprint}
        return self._spec(SCORE, f"{model.method}-s{model.seed}", {"layout": _LAYOUT}, inputs)

    def trainings(self, model: Model) -> Iterator[Plan]:
        """All trainings of a model, in order."""
        switched = model.switches
        if switched.language_model and not switched.one_stage:
            yield self.tune(model.seed)
        if switched.id_tokens:
            yield self.align(model.seed, switched)
        yield self.last(model)

    def _of_rows(self, method: Method) -> dict[str, Any]:
        """What decides prompts and labels; wording that a method does not use is none of it."""
        prompt = self.config.prompt.identity()
        switched = switches(method)
        unused = {"vector"}
        unused |= set() if switched.id_tokens else {"user", "item"}
        unused |= set() if switched.warm_token else {"warm"}
        return {
            "prompt": {key: value for key, value in prompt.items() if key not in unused},
            "dtype": self.config.dtype,
            "faithful": self.config.faithful,
            "positive_rating": self.experiment.dataset.positive_rating,
            "valid_rows": self.config.valid_rows,
        }

    def _spec(
        self, stage: str, label: str, identity: Mapping[str, Any], inputs: Mapping[str, str]
    ) -> StageSpec:
        return StageSpec(
            stage=stage,
            name=f"{self.experiment.name}-{label}",
            identity=identity,
            inputs={"dataset": self.dataset.fingerprint, **inputs},
        )
