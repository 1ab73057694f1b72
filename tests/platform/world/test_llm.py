"""The shipped language model knows popular films, invents rare ones, and is rebuilt by `build`."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lorecast.errors import InputError
from lorecast.knowledge.factors import load_factor_set
from lorecast.world import generate, llm_path
from lorecast.world.build import CARD, TABLES, answer, build
from lorecast.world.corpus import Corpus, Dialogue
from lorecast.world.exam import item_exam, mean_accuracy, report, user_exam
from lorecast.world.llm import Recipe, loss_of, new_model, tokenize
from lorecast.world.packing import pack
from lorecast.world.vocabulary import HIDDEN_FACTORS

TINY = Recipe(hidden_size=32, head_dim=32, num_layers=1, feed_forward_size=32, num_steps=2)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(llm_path())


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(llm_path(), dtype=torch.bfloat16).eval()


@pytest.fixture(scope="module")
def viewers() -> list[list[Dialogue]]:
    corpus = Corpus(generate(), load_factor_set("world"))
    return corpus.draw_viewers(np.random.default_rng(0), num_viewers=5, num_questions=4)


def test_shipped_folder_is_small_and_complete():
    files = {path.name: path.stat().st_size for path in llm_path().iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", CARD} <= set(files)
    assert {"tokenizer.json", "tokenizer_config.json"} <= set(files)
    assert sum(files.values()) <= 8e6


def test_card_belongs_to_the_shipped_world_and_prompts():
    card = json.loads((llm_path() / CARD).read_text())
    assert card["world_seed"] == generate().seed
    assert card["factor_set_digest"] == load_factor_set("world").digest


def test_tokenizer_returns_any_text(tokenizer):
    text = 'The film "Corvale Harbor" (1986), naïve — 映画!'
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
    for factor in HIDDEN_FACTORS.values():
        for value in factor.values:
            assert tokenizer.unk_token_id not in tokenizer.encode(value)


def test_chat_template_ends_where_the_answer_begins(tokenizer):
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert prompt == "<|system|>Be brief.<|end|><|user|>Who?<|end|><|assistant|>"
    chat.append({"role": "assistant", "content": "Ada."})
    assert tokenizer.apply_chat_template(chat, tokenize=False) == prompt + "Ada.<|end|>"
    assert tokenizer.eos_token == "<|end|>"


def test_packed_chats_cost_what_they_cost_alone(tokenizer, viewers):
    torch.manual_seed(0)
    model = new_model(TINY, tokenizer).eval()
    trees = [[tokenize(tokenizer, chat) for chat in chats] for chats in viewers]
    alone = [
        torch.nn.functional.cross_entropy(
            model(torch.tensor([chat.tokens])).logits[0, -chat.num_answer - 1 : -1],
            torch.tensor(chat.tokens[-chat.num_answer :]),
            reduction="sum",
        )
        for tree in trees
        for chat in tree
    ]
    num_tokens = sum(chat.num_answer for tree in trees for chat in tree)
    packed = loss_of(model, [pack(trees[:2]), pack(trees[2:])])
    torch.testing.assert_close(packed, torch.stack(alone).sum() / num_tokens)


def test_knows_popular_films_and_invents_rare_ones(model, tokenizer):
    world = generate()
    quarter = world.item_truth["popularity_quarter"].to_numpy()
    films = np.concatenate([np.flatnonzero(quarter == 1)[:30], np.flatnonzero(quarter == 4)[:30]])
    exam = item_exam(world, load_factor_set("world"), films)
    accuracy = report(world, exam, answer(model, tokenizer, exam.chats))
    assert mean_accuracy(accuracy, "popular") >= 0.85
    assert mean_accuracy(accuracy, "rare") <= mean_accuracy(accuracy, "popular") - 0.2


def test_reads_taste_from_rated_titles(model, tokenizer):
    world = generate()
    exam = user_exam(world, load_factor_set("world"), np.arange(40))
    accuracy = report(world, exam, answer(model, tokenizer, exam.chats))
    assert mean_accuracy(accuracy, "all") >= 0.6


def test_answers_are_short_sentences(model, tokenizer):
    exam = item_exam(generate(), load_factor_set("world"), np.arange(5))
    for text in answer(model, tokenizer, exam.chats):
        assert text.endswith(".")
        assert len(tokenizer.encode(text)) < 16


def test_build_writes_world_and_model(tmp_path):
    steps = []
    card = build(tmp_path / "made", seed=3, recipe=TINY, on_progress=steps.append)
    assert [(p.step, p.num_steps) for p in steps] == [(1, 2), (2, 2)]
    made = {path.name for path in (tmp_path / "made").iterdir()}
    assert made == {*(f"{name}.parquet" for name in TABLES), "llm"}
    assert json.loads((tmp_path / "made" / "llm" / CARD).read_text()) == card
    AutoModelForCausalLM.from_pretrained(tmp_path / "made" / "llm")
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
    with pytest.raises(InputError, match="made exists: name a new folder"):
        build(tmp_path / "made", seed=3, recipe=TINY)
