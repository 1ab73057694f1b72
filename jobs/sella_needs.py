"""What each of SeLLa's stages reads, computes and holds; see `sella_plans` for the stages."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

import torch

from lorecast.artifacts import StageSpec, fingerprint
from lorecast.config import ExperimentConfig, SellaConfig
from lorecast.config.sella import Method
from lorecast.data.dataset import Dataset
from lorecast.data.layout import Split
from lorecast.jobs.sella_plans import Model, Plan, Plans, model_source
from lorecast.knowledge.language_model import LanguageModel
from lorecast.sella import estimates, sizes
from lorecast.sella.estimates import Memory, Reading
from lorecast.sella.guide import Guide
from lorecast.sella.methods import switches
from lorecast.sella.prompts import Prompts, cut, encode
from lorecast.sella.rows import PromptRows


@dataclass(frozen=True, kw_only=True)
class Need:
    """What one stage takes, for one seed."""

    rows: int
    tokens: int = 0
    """Computed by the language model, all passes and validations together."""
    steps: int | None = None
    flops: float = 0.0
    workers: int
    memory: Memory | None = None
    """Of one worker; none: little."""


@dataclass(frozen=True)
class StageNeed:
    """A stage of one kind of model."""

    stage: str
    of: str
    need: Need
    specs: dict[str, StageSpec] = field(default_factory=dict)
    """Of all seeds, by fingerprint."""


class StageNeeds:
    """The stages of one experiment."""

    def __init__(
        self, config: ExperimentConfig, dataset: Dataset, found: sizes.Found | None
    ) -> None:
        """`found`: the language model, if any method has one. Raises TrainingError if none of its
        layers can get adapters."""
        assert config.sella is not None
        self._config: SellaConfig = config.sella
        self._compute, self._dataset, self._found = config.compute, dataset, found
        self._positive_rating = config.dataset.positive_rating
        self._titles: list[str | None] = dataset.items()["title"].to_pylist()
        self._rows, self._prompts = cache(self._load_rows), cache(self._make_prompts)
        self.plans = Plans(config, dataset, _stand_in(config.sella, found))
        if found is not None:
            self.model = estimates.ModelNeeds(config.sella, found)

    def stages(self) -> tuple[StageNeed, ...]:
        """All, in the order in which they are made. Raises TrainingError if prompts may outgrow the
        model, or its tokenizer cannot tell Yes from No."""
        plans, found = self.plans, dict[tuple[str, str], StageNeed]()
        trainings = [(model, plan) for model in plans.models for plan in plans.trainings(model)]

        def add(spec: StageSpec, of: str, need: Callable[[], Need]) -> None:
            key = spec.stage, of
            if key not in found:
                found[key] = StageNeed(*key, need())
            found[key].specs[spec.fingerprint] = spec

        for _, plan in trainings:
            if plan.stage.kind == "tune":
                add(plan.spec, "text", partial(self._tune, plan))
        for seed in plans.vectors_seeds:
            add(plans.vectors(seed), "titles", self._vectors)
        for model, plan in trainings:
            if plan.stage.kind == "align":
                of = "aligned items" if plan.stage.method.aligned else self._config.align.model
                add(plan.spec, of, partial(self._align, plan))
            elif plan.stage.kind == "guide":
                add(plan.spec, model.method, partial(self._guide, plan, model.method))
        for model in plans.models:
            add(plans.score(model), model.method, partial(self._score, model))
        return tuple(found.values())

    def prompts(self) -> dict[Split, Reading]:
        """Those of the method that has the longest, read as in scoring."""
        methods = [m for m in self._config.methods if switches(m).language_model]
        longest = max(map(self._prompts, methods), key=lambda prompts: prompts.longest)
        splits: tuple[Split, ...] = ("train", "valid", "test")
        size = self._config.score_batch
        return {split: estimates.reading(longest, self._rows(split), size) for split in splits}

    def _tune(self, plan: Plan) -> Need:
        rows, prompts = self._trained_rows(plan), self._prompts("text")
        of = estimates.reading(prompts, rows, self._config.micro_batch, learns="all")
        return self._training(plan, prompts, of, self.model.tune(of))

    def _guide(self, plan: Plan, method: Method) -> Need:
        rows, prompts, config = self._trained_rows(plan), self._prompts(method), self._config
        one_stage = plan.stage.method.one_stage
        learns: estimates.Learns = "all" if one_stage else "suffix"
        of = estimates.reading(prompts, rows, config.micro_batch, learns=learns)
        schema = self._dataset.schema
        counts = {"user": schema.num_users + 1, "item": schema.num_items + 1}
        counts["width"] = self.model.sizes.width
        with torch.device("meta"):
            guide = Guide(
                plan.stage.method, config.align, config.guide, counts, faithful=config.faithful
            )
        return self._training(plan, prompts, of, self.model.guide(of, guide, one_stage=one_stage))

    def _training(self, plan: Plan, prompts: Prompts, of: Reading, memory: Memory) -> Need:
        config = self._config
        schedule = config.tune if plan.stage.kind == "tune" else config.guide
        valid = self._rows("valid").draw(config.valid_rows, 0, whole="user")
        checked = estimates.reading(prompts, valid, config.score_batch)
        steps = estimates.steps(of.rows, schedule.batch_size, schedule.epochs)
        checks = min(steps, schedule.epochs * schedule.checks)
        return Need(
            rows=of.rows,
            tokens=schedule.epochs * of.read + checks * checked.read,
            steps=steps,
            flops=schedule.epochs * self._flops(of) + checks * self._flops(checked),
            workers=self._compute.train_workers,
            memory=memory,
        )

    def _trained_rows(self, plan: Plan) -> PromptRows:
        config, rows = self._config, self._rows("train")
        schedule = config.tune if plan.stage.kind == "tune" else config.guide
        if config.faithful:
            rows = rows.with_history()
        return rows.draw(schedule.rows, plan.stage.seed, whole="prefix")

    def _align(self, plan: Plan) -> Need:
        align, rows = self._config.align, len(self._rows("train"))
        width = self.model.sizes.width if plan.stage.method.aligned else None
        return Need(
            rows=rows,
            steps=estimates.steps(rows, align.batch_size, align.epochs),
            flops=estimates.align_flops(align, rows, width),
            workers=self._compute.train_workers,
        )

    def _vectors(self) -> Need:
        assert self._found is not None, "vectors are a language model's"
        prompt, tokenizer = self._config.prompt, self._found.tokenizer
        texts = [
            prompt.vector.replace("{title}", cut(tokenizer, title, prompt.title_tokens))
            for title in self._titles
            if title
        ]
        tokens = sum(len(encode(tokenizer, text)) for text in texts)
        return Need(
            rows=len(texts),
            tokens=tokens,
            flops=2.0 * self.model.sizes.per_token * tokens,
            workers=self._config.scorers,
        )

    def _score(self, model: Model) -> Need:
        rows, workers = self._rows("test"), self._config.scorers
        if not model.switches.language_model:
            return Need(rows=len(rows), workers=workers)
        of = estimates.reading(self._prompts(model.method), rows, self._config.score_batch)
        return Need(
            rows=len(rows),
            tokens=of.read,
            flops=self._flops(of),
            workers=workers,
            memory=self.model.score(of),
        )

    def _flops(self, of: Reading) -> float:
        return estimates.flops(of, self.model.sizes, self._config)

    def _load_rows(self, split: Split) -> PromptRows:
        return PromptRows.load(self._dataset, split, self._config, self._positive_rating)

    def _make_prompts(self, method: Method) -> Prompts:
        assert self._found is not None, "prompts are a language model's"
        prompts = Prompts(
            self._found.tokenizer,
            self._titles,
            self._config.prompt,
            switches(method),
            faithful=self._config.faithful,
        )
        self.model.language.check_length(prompts)
        return prompts


def _stand_in(config: SellaConfig, found: sizes.Found | None) -> LanguageModel | None:
    """For a folder without weights: nothing can have been made with it."""
    if found is None or found.has_weights or not Path(model_source(config)).expanduser().is_dir():
        return None
    digest = fingerprint(["no weights", config.model])
    return LanguageModel(source=config.model, revision=config.revision, digest=digest)
