"""What a plan would cost: exact counts, honest intervals."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from lorecast.config import ExperimentConfig, GeneratedField, KnowledgeConfig
from lorecast.data.dataset import Dataset
from lorecast.knowledge.costs import Amount, estimate, total
from lorecast.knowledge.plan import Plan
from lorecast.knowledge.store import KnowledgeStore


def words(chats: Sequence[str]) -> list[int]:
    return [len(chat.split()) for chat in chats]


def test_calls_are_exact_and_a_whole_sample_leaves_nothing_open(
    tiny_dataset: Dataset, tmp_path: Path
) -> None:
    fields = (
        GeneratedField(name="facts", side="item", factor_set="films", factors=("mood", "plot")),
        GeneratedField(name="taste", side="user", factor_set="films"),
    )
    config = ExperimentConfig(knowledge=KnowledgeConfig(fields=fields))
    plan = Plan.of(config, tiny_dataset, "model")
    index = KnowledgeStore(tmp_path / "knowledge").index()
    costs = estimate(plan, index, words, max_tokens=32, written={"facts": [10, 12]})
    assert (costs["facts"].wanted, costs["facts"].missing) == (80, 80)
    chats = [
        chat
        for block in plan.blocks()
        for chat, field in zip(block["chat"].to_pylist(), block["field"].to_pylist(), strict=True)
        if field == "facts"
    ]
    exact = sum(words(chats))
    assert costs["facts"].prompt_tokens == Amount(mean=exact, low=exact, high=exact)
    assert costs["facts"].output_tokens.mean == 80 * 11
    taste = costs["taste"].output_tokens
    assert (taste.low, taste.high) == (270, 270 * 32), "nothing is known but the limit"
    assert costs["taste"].prompt_tokens.low < costs["taste"].prompt_tokens.high
    assert total(costs.values()).missing == 80 + 270


@pytest.mark.parametrize("seed", range(3))
def test_the_interval_holds_the_truth(
    make_tiny_dataset: Callable[..., Dataset], tmp_path: Path, seed: int
) -> None:
    field = GeneratedField(name="taste", side="user", factor_set="films")
    config = ExperimentConfig(knowledge=KnowledgeConfig(fields=(field,)))
    plan = Plan.of(config, make_tiny_dataset(num_users=150), "model")
    index = KnowledgeStore(tmp_path / "knowledge").index()
    cost = estimate(plan, index, words, 32, {}, seed=seed)["taste"]
    exact = sum(sum(words(block["chat"].to_pylist())) for block in plan.blocks())
    spread = cost.prompt_tokens.high - cost.prompt_tokens.low
    assert cost.prompt_tokens.low - spread < exact < cost.prompt_tokens.high + spread
