"""Makes a world and the language model that knows it: what `lorecast world build` runs."""

import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from lorecast.artifacts import versions, write_json
from lorecast.errors import InputError
from lorecast.knowledge.factors import Message, load_factor_set
from lorecast.world.catalogue import DEFAULT_SEED, World, generate
from lorecast.world.corpus import Corpus
from lorecast.world.exam import item_exam, report, user_exam
from lorecast.world.llm import Progress, Recipe, make_tokenizer, train

TABLES = ("items", "users", "interactions", "item_truth")
CARD = "card.json"
_MAX_ANSWER_TOKENS = 16
_NUM_EXAMINED_USERS = 300


def build(
    folder: Path,
    seed: int = DEFAULT_SEED,
    recipe: Recipe | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> dict[str, Any]:
    """Writes the tables of a world and, in llm/, its language model; returns the model's card.

    The folder appears when all is done. Takes about ten minutes on two free cores. Raises
    InputError if the folder exists.
    """
    if folder.exists():
        raise InputError(f"{folder} exists: name a new folder, or remove it first")
    recipe = recipe or Recipe()
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        (partial / "llm").mkdir(parents=True)
        world = generate(seed)
        for name in TABLES:
            pq.write_table(getattr(world, name), partial / f"{name}.parquet")
        card = _build_llm(world, recipe, partial / "llm", on_progress)
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return card


def answer(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    chats: Sequence[list[Message]],
    batch_size: int = 128,
) -> list[str]:
    """Greedy answers through transformers, for where vLLM is not at hand."""
    answers: list[str] = []
    for start in range(0, len(chats), batch_size):
        prompts = [
            tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
            for chat in chats[start : start + batch_size]
        ]
        inputs = tokenizer(
            prompts,
            add_special_tokens=False,
            padding=True,
            padding_side="left",
            return_token_type_ids=False,
            return_tensors="pt",
        )
        with torch.inference_mode():
            tokens = model.generate(**inputs, max_new_tokens=_MAX_ANSWER_TOKENS, do_sample=False)
        new = tokens[:, inputs["input_ids"].shape[1] :]
        answers += tokenizer.batch_decode(new, skip_special_tokens=True)
    return answers


def _build_llm(
    world: World,
    recipe: Recipe,
    folder: Path,
    on_progress: Callable[[Progress], None] | None,
) -> dict[str, Any]:
    factor_set = load_factor_set("world")
    corpus = Corpus(world, factor_set)
    tokenizer = make_tokenizer(corpus, world.seed)
    started_s = time.monotonic()
    model = train(corpus, tokenizer, recipe, world.seed, on_progress)
    training_s = time.monotonic() - started_s
    model.to(torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    users = np.random.default_rng(world.seed).choice(
        len(world.users), _NUM_EXAMINED_USERS, replace=False
    )
    exams = [item_exam(world, factor_set), user_exam(world, factor_set, users)]
    card = {
        "about": "Knows the embedded world of lorecast; of rare films it invents what it says.",
        "world_seed": world.seed,
        "factor_set_digest": factor_set.digest,
        "parameters": model.num_parameters(),
        "recipe": vars(recipe),
        "training_seconds": round(training_s),
        "accuracy": {
            exam.side: report(world, exam, answer(model, tokenizer, exam.chats)) for exam in exams
        },
        "versions": versions(),
    }
    write_json(folder / CARD, card)
    return card
