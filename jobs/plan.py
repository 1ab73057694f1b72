"""plan: what generation would ask and cost, before a token is spent.

For the experiment as it stands, and for every generated field individually against collectively at
several numbers of groups.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from lorecast.config import CollectiveConfig, ExperimentConfig, GeneratedField
from lorecast.data.dataset import Dataset
from lorecast.errors import ConfigError, EngineError
from lorecast.jobs import engines
from lorecast.jobs.console import Console
from lorecast.jobs.generate import collective_groups
from lorecast.knowledge.costs import Amount, Cost, CountTokens, estimate, total, written_tokens
from lorecast.knowledge.language_model import LanguageModel
from lorecast.knowledge.plan import Plan, questions
from lorecast.knowledge.store import FOLDER, KnowledgeStore

DEFAULT_CLUSTERS = (50, 100, 200, 500, 1000)


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What time and tokens cost; what is not given is not printed."""

    tokens_per_s: float | None = None
    """Written tokens a second of one GPU, or engine."""
    price_per_hour: float | None = None
    """Of one GPU, in any currency."""
    price_in: float | None = None
    """Of a million prompt tokens."""
    price_out: float | None = None
    """Of a million written tokens."""

    def bill(self, cost: Cost) -> dict[str, Amount]:
        """Hours and money of a cost, as far as rates are known."""
        bill: dict[str, Amount] = {}
        if self.tokens_per_s:
            bill["GPU hours"] = _scaled(cost.output_tokens, 1 / self.tokens_per_s / 3600)
            if self.price_per_hour is not None:
                bill["GPU price"] = _scaled(bill["GPU hours"], self.price_per_hour)
        if self.price_in is not None or self.price_out is not None:
            prompts = _scaled(cost.prompt_tokens, (self.price_in or 0) / 1e6)
            bill["API price"] = prompts + _scaled(cost.output_tokens, (self.price_out or 0) / 1e6)
        return bill


def run(
    config: ExperimentConfig,
    dataset: Dataset,
    console: Console,
    rates: Rates,
    clusters: Sequence[int] = DEFAULT_CLUSTERS,
) -> None:
    """Prints the plan of an experiment. Spends nothing and needs no engine.

    Raises ConfigError if no field is generated.
    """
    asked = questions(config.knowledge.fields)
    if not asked:
        raise ConfigError("no field of knowledge.fields is generated: there is nothing to plan")
    model = engines.find_model(config)
    count_tokens = _token_counter(model)
    store = KnowledgeStore(config.compute.folder / FOLDER)
    index = store.index()
    written: dict[str, list[int]] = {}
    for rows in index.tables():
        of_model = rows.filter(pa.compute.equal(rows["model"], model.source))
        for name, tokens in written_tokens(of_model).items():
            written.setdefault(name, []).extend(tokens)

    def costs(of: ExperimentConfig) -> dict[str, Cost]:
        groups = collective_groups(of, dataset, questions(of.knowledge.fields), {})
        plan = Plan.of(of, dataset, model.digest, groups)
        return estimate(plan, index, count_tokens, config.knowledge.llm.max_tokens, written)

    console.heading(f"lorecast plan · {config.name} · {model.source}")
    by_field = costs(_without_knowledge_groups(config))
    everything = total(by_field.values())
    lines = {**by_field, "all": everything} if len(by_field) > 1 else by_field
    _print(console, "as configured", lines, rates)
    schema = dataset.schema
    for question in asked:
        num_entities = schema.num_items if question.side == "item" else schema.num_users
        lines = {}
        for name, field in _variants(question.config, clusters, num_entities).items():
            if _can_ask(question.factor_set, field):
                lines[name] = costs(_only(config, field))[field.name]
        _print(console, f"{question.field}: individual or collective", lines, rates)
    if not any(written.get(question.field) for question in asked):
        console.note(
            "no answer of this model is stored yet: written tokens may be anything up to "
            f"knowledge.llm.max_tokens = {config.knowledge.llm.max_tokens}"
        )


def _variants(
    field: GeneratedField, clusters: Sequence[int], num_entities: int
) -> Mapping[str, GeneratedField]:
    individual = field.model_copy(update={"extraction": "individual"})
    variants = {f"individual ({num_entities:,})": individual}
    for k in clusters:
        if k < num_entities:
            groups = CollectiveConfig(clusters=k, represent="clicks", shown=field.collective.shown)
            variants[f"{k:,} groups"] = field.model_copy(
                update={"extraction": "collective", "collective": groups}
            )
    return variants


def _can_ask(factor_set: Any, field: GeneratedField) -> bool:
    return field.extraction == "individual" or factor_set.has_role(f"{field.side}_group")


def _without_knowledge_groups(config: ExperimentConfig) -> ExperimentConfig:
    """Groups made from answers are as many as groups made from clicks, which can be made now."""
    fields = []
    for field in config.knowledge.fields:
        if isinstance(field, GeneratedField) and field.collective.represent == "knowledge":
            collective = field.collective.model_copy(update={"represent": "clicks"})
            field = field.model_copy(update={"collective": collective})
        fields.append(field)
    knowledge = config.knowledge.model_copy(update={"fields": tuple(fields)})
    return config.model_copy(update={"knowledge": knowledge})


def _only(config: ExperimentConfig, field: GeneratedField) -> ExperimentConfig:
    knowledge = config.knowledge.model_copy(update={"fields": (field,)})
    return config.model_copy(update={"knowledge": knowledge})


def _token_counter(model: LanguageModel) -> CountTokens:
    """Counts with the model's own tokenizer and chat template.

    Raises EngineError if the tokenizer cannot be loaded, as for a model behind an endpoint.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model.source, revision=model.revision)
    except (OSError, ValueError) as error:
        raise EngineError(
            f"no tokenizer of {model.source} ({str(error).splitlines()[0]}); plan with "
            "knowledge.llm.model set to the folder of the model, or of its tokenizer"
        ) from error

    def count(chats: Sequence[str]) -> list[int]:
        texts = [
            tokenizer.apply_chat_template(
                json.loads(chat), add_generation_prompt=True, tokenize=False
            )
            for chat in chats
        ]
        if not texts:
            return []
        return [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]

    return count


def _print(console: Console, title: str, costs: Mapping[str, Cost], rates: Rates) -> None:
    lines = []
    for name, cost in costs.items():
        bill = rates.bill(cost)
        lines.append(
            {
                "": name,
                "wanted": f"{cost.wanted:,}",
                "stored": f"{cost.stored:,}",
                "calls": f"{cost.missing:,}",
                "prompt tokens": _format(cost.prompt_tokens),
                "written tokens": _format(cost.output_tokens),
                **{what: _format(amount) for what, amount in bill.items()},
            }
        )
    console.table(title, lines)


def _scaled(amount: Amount, factor: float) -> Amount:
    return Amount(mean=amount.mean * factor, low=amount.low * factor, high=amount.high * factor)


def _format(amount: Amount) -> str:
    digits = 0 if amount.high >= 100 or amount.high == 0 else 2
    below, above = amount.mean - amount.low, amount.high - amount.mean
    if max(below, above) < 10**-digits:
        return f"{amount.mean:,.{digits}f}"
    if abs(above - below) < 0.01 * above:
        return f"{amount.mean:,.{digits}f} ± {above:,.{digits}f}"
    return f"{amount.low:,.{digits}f} to {amount.high:,.{digits}f}"
