"""The one forward pass: against a plain one, and against padding, batches and order."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lorecast.config.sella import LoRAConfig
from lorecast.errors import TrainingError
from lorecast.sella.language import AnsweringModel, PromptBatch
from lorecast.sella.prompts import ITEM, USER, WARM, Prompts
from lorecast.sella.rows import PromptRows
from lorecast.sella.yes_no import YesNoModel
from tests.sella.tiny_llm import write_tiny_llm


def _plain_logits(
    language: AnsweringModel,
    prompts: Prompts,
    rows: PromptRows,
    vectors: dict[int, torch.Tensor],
) -> torch.Tensor:
    """Every row's whole prompt on its own, whole vocabulary: [B]."""
    logits = []
    for place in range(len(rows)):
        row = rows.take(slice(place, place + 1))
        pieces = np.concatenate([prompts.prefix(row.liked_BM), prompts.suffix(row.item_row_B)], 1)
        token_1T, _ = prompts.pieces.join(pieces, pad_left=False, padding=0)
        token_1T = np.concatenate([np.asarray([prompts.shared]), token_1T], axis=1)
        own = {slot: vector[place : place + 1] for slot, vector in vectors.items()}
        embedded = language.embed(torch.from_numpy(token_1T), own)
        logit_V = language.causal(inputs_embeds=embedded).logits[0, -1]
        logits.append(logit_V[prompts.frame.yes[0]] - logit_V[prompts.frame.no[0]])
    return torch.stack(logits)


@torch.no_grad()
def test_shared_prefixes_and_two_answers_score_as_whole_prompts_do(
    language: AnsweringModel, make_prompts: Callable[..., Prompts], rows: PromptRows
) -> None:
    prompts = make_prompts("sella")
    vectors = {slot: torch.randn(len(rows), language.width) for slot in (USER, ITEM, WARM)}
    expected = _plain_logits(language, prompts, rows, vectors)
    language.answers_only(prompts)
    batch = PromptBatch.of(prompts, rows)
    assert len(batch.prefix_GP) < len(rows), "some rows share a prefix"
    found = language.logit(prompts, batch, vectors)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert expected.std() > 1e-2, "rows differ"


@pytest.mark.invariant
def test_padding_batch_and_order_do_not_change_a_score(
    language: AnsweringModel,
    make_prompts: Callable[..., Prompts],
    rows: PromptRows,
    rng: np.random.Generator,
) -> None:
    model = YesNoModel(language, make_prompts("text"), None)
    whole = model.probabilities(rows, 100)
    order = rng.permutation(len(rows))
    np.testing.assert_allclose(model.probabilities(rows.take(order), 100), whole[order], atol=1e-6)
    np.testing.assert_allclose(model.probabilities(rows, 1), whole, atol=1e-6)


def test_new_adapters_change_nothing_and_merged_ones_score_the_same(
    language: AnsweringModel,
    tiny_llm: Path,
    make_prompts: Callable[..., Prompts],
    rows: PromptRows,
    tmp_path: Path,
) -> None:
    prompts = make_prompts("text")
    bare = YesNoModel(language, prompts, None).probabilities(rows, 100)
    adapted = AnsweringModel.load(str(tiny_llm))
    adapted.add_adapters(LoRAConfig(rank=4))
    model = YesNoModel(adapted, prompts, None)
    np.testing.assert_array_equal(model.probabilities(rows, 100), bare)

    for name, parameter in adapted.causal.named_parameters():
        assert parameter.requires_grad == ("lora_" in name), "the model itself is frozen"
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    learnt = model.probabilities(rows, 100)
    assert np.abs(learnt - bare).max() > 1e-3
    adapted.save_adapters(tmp_path)
    loaded = AnsweringModel.load(str(tiny_llm))
    loaded.load_adapters(tmp_path)
    again = YesNoModel(loaded, prompts, None).probabilities(rows, 100)
    np.testing.assert_allclose(again, learnt, atol=1e-5)


def test_what_learnt_is_not_scored_from_what_was_kept(
    language: AnsweringModel, make_prompts: Callable[..., Prompts], rows: PromptRows
) -> None:
    """The shared beginning is kept for frozen models only."""
    language.add_adapters(LoRAConfig(rank=4))
    model = YesNoModel(language, make_prompts("text"), None)
    before = model.probabilities(rows, 100)
    for name, parameter in language.causal.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    assert np.abs(model.probabilities(rows, 100) - before).max() > 1e-3


def test_states_are_of_the_last_token_whatever_stands_beside(language: AnsweringModel) -> None:
    texts = ["Film 1", "MovieList Film 1", "The user will like Film 3"]
    together = language.last_states(texts)
    alone = np.concatenate([language.last_states([text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert together.dtype == np.float32


@pytest.mark.bad_input
def test_prompts_that_may_outgrow_the_model_are_refused(
    tmp_path: Path, make_prompts: Callable[..., Prompts]
) -> None:
    language = AnsweringModel.load(str(write_tiny_llm(tmp_path, max_length=40)))
    with pytest.raises(TrainingError, match=r"takes 40 tokens.*sella\.prompt\.history_titles"):
        YesNoModel(language, make_prompts("text"), None)


@pytest.mark.bad_input
def test_adapters_for_layers_that_are_not_there_are_refused(language: AnsweringModel) -> None:
    with pytest.raises(TrainingError, match="none of c_attn; its linear layers are down_proj"):
        language.add_adapters(LoRAConfig(targets=("c_attn",)))


@pytest.mark.bad_input
def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=f"sella.model: {tmp_path} cannot be loaded"):
        AnsweringModel.load(str(tmp_path))


def test_rows_that_share_a_prefix_are_read_once(
    make_prompts: Callable[..., Prompts], rows: PromptRows
) -> None:
    batch = PromptBatch.of(make_prompts("text"), replace(rows, liked_BM=rows.liked_BM[[0] * 12]))
    assert len(batch.prefix_GP) == 1
