"""The one forward pass: against a plain one, and against padding, batches and order."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lorecast.config import PromptConfig
from lorecast.config.sella import LoRAConfig
from lorecast.errors import TrainingError
from lorecast.sella.language import AnsweringModel, PromptBatch
from lorecast.sella.methods import switches
from lorecast.sella.prompts import ITEM, USER, WARM, Prompts
from lorecast.sella.rows import PromptRows
from lorecast.sella.yes_no import YesNoModel
from tests.sella.conftest import TITLES
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


def test_adapters_of_a_bfloat16_model_are_float32(
    tiny_llm: Path, make_prompts: Callable[..., Prompts], rows: PromptRows, tmp_path: Path
) -> None:
    """A step that bfloat16 would round away is taken, saved and loaded."""
    prompts = make_prompts("text")
    adapted = AnsweringModel.load(str(tiny_llm), dtype="bfloat16")
    adapted.add_adapters(LoRAConfig(rank=4, dropout=0.0))
    model = YesNoModel(adapted, prompts, None)
    learned = {n: p for n, p in adapted.causal.named_parameters() if p.requires_grad}
    assert all("lora_" in name and p.dtype == torch.float32 for name, p in learned.items())
    frozen = {p.dtype for p in adapted.causal.parameters() if not p.requires_grad}
    assert frozen == {torch.bfloat16}

    for name, parameter in learned.items():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    before = {name: parameter.detach().clone() for name, parameter in learned.items()}
    optimizer = torch.optim.AdamW(learned.values(), lr=1e-5, fused=True)
    model.loss(rows).backward()
    optimizer.step()
    moments = [m for state in optimizer.state.values() for m in state.values()]
    assert {moment.dtype for moment in moments} == {torch.float32}
    for name, parameter in learned.items():
        after = parameter.detach()
        assert (after != before[name]).float().mean() > 0.9, name
        kept = after.bfloat16() == before[name].bfloat16()
        assert kept.float().mean() > 0.9, f"{name}: in bfloat16 such a step is lost"

    scores = model.probabilities(rows, 100)
    adapted.save_adapters(tmp_path)
    loaded = AnsweringModel.load(str(tiny_llm), dtype="bfloat16")
    loaded.load_adapters(tmp_path)
    again = YesNoModel(loaded, prompts, None).probabilities(rows, 100)
    np.testing.assert_array_equal(again, scores)
    whole = AnsweringModel.load(str(tiny_llm))
    whole.load_adapters(tmp_path)
    exact = YesNoModel(whole, prompts, None).probabilities(rows, 100)
    np.testing.assert_allclose(scores, exact, atol=0.05)
    assert np.corrcoef(scores, exact)[0, 1] > 0.99


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
@pytest.mark.parametrize("faithful", [False, True])
def test_a_model_without_a_padding_token_scores_as_one_with(
    tmp_path: Path, make_prompts: Callable[..., Prompts], rows: PromptRows, faithful: bool
) -> None:
    found = []
    for pad_token in (None, "<|end|>"):
        folder = write_tiny_llm(tmp_path / str(pad_token), pad_token=pad_token)
        language = AnsweringModel.load(str(folder))
        assert language.tokenizer.pad_token == pad_token
        model = YesNoModel(language, make_prompts("text", faithful=faithful), None)
        states = language.last_states(["Film 1", "The user will like Film 3"])
        found.append((model.probabilities(rows, 100), states))
    for without, with_one in zip(*found, strict=True):
        np.testing.assert_allclose(without, with_one, atol=1e-6)


@pytest.mark.bad_input
def test_a_tokenizer_without_a_chat_template_scores(tmp_path: Path, rows: PromptRows) -> None:
    language = AnsweringModel.load(str(write_tiny_llm(tmp_path, chat_template=None)))
    prompts = Prompts(language.tokenizer, TITLES, PromptConfig(), switches("text"))
    found = YesNoModel(language, prompts, None).probabilities(rows, 100)
    assert np.isfinite(found).all()
    assert np.ptp(found) > 1e-3


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
