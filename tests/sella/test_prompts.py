"""What prompts say, in tokens of tokenizers of several kinds."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lorecast.config import PromptConfig, SellaConfig
from lorecast.errors import TrainingError
from lorecast.sella.language import AnsweringModel
from lorecast.sella.methods import switches
from lorecast.sella.prompts import ITEM, USER, WARM, Prompts
from tests.sella.tiny_llm import NO_SYSTEM, write_tiny_llm


def _told(language: AnsweringModel, prompts: Prompts, liked: list[int], item: int) -> str:
    """A row's whole prompt, tokens apart."""
    liked_1M = np.asarray([liked])
    pieces = np.concatenate([prompts.prefix(liked_1M), prompts.suffix(np.asarray([item]))], 1)
    (tokens,), _ = prompts.pieces.join(pieces, pad_left=False, padding=0)
    named = {USER: "<User_ID>", ITEM: "<Item_ID>", WARM: "<Warm_ID>"}
    words = language.tokenizer.convert_ids_to_tokens(prompts.shared)
    for token in tokens:
        words.append(named.get(token) or language.tokenizer.convert_ids_to_tokens(int(token)))
    return " ".join(words)


def test_a_prompt_reads_as_its_wording_says(
    language: AnsweringModel, make_prompts: Callable[..., Prompts]
) -> None:
    told = _told(language, make_prompts("sella", system="the user"), [0, 3, 7], 9)
    assert told == (
        "<|system|> the user <|end|> <|user|> MovieList : [ ' Film 3 ' , ' Film 7 ' ] . "
        "The user ' s feature is <User_ID> . The target movie ' s feature is <Item_ID> , "
        "<Warm_ID> . TargetMovie : Film 9 <|end|> <|assistant|>"
    )


@pytest.mark.parametrize(
    ("method", "slots"),
    [
        ("text", []),
        ("collm", [USER, ITEM]),
        ("sella", [USER, ITEM, WARM]),
        ("no_id_tokens", [WARM]),
    ],
)
def test_a_method_has_the_tokens_it_is_made_of(
    make_prompts: Callable[..., Prompts], method: str, slots: list[int]
) -> None:
    prompts = make_prompts(method)
    tokens, _ = prompts.pieces.join(prompts.suffix(np.asarray([5])), pad_left=True, padding=0)
    assert [token for token in tokens[0] if token < 0] == slots


def test_an_empty_history_and_an_unknown_item_have_words(
    language: AnsweringModel, make_prompts: Callable[..., Prompts]
) -> None:
    told = _told(language, make_prompts(), [0, 0, 0], 0)
    assert "MovieList : [ ]" in told
    assert "TargetMovie : ( unknown )" in told


def test_the_published_list_that_is_not_full_begins_with_an_empty_title(
    language: AnsweringModel, make_prompts: Callable[..., Prompts]
) -> None:
    prompts = make_prompts(faithful=True)
    assert "MovieList : [ ' ' , ' Film 3 ' ]" in _told(language, prompts, [0, 0, 3], 1)
    assert "' '" not in _told(language, prompts, [4, 5, 3], 1)


def test_what_looks_like_a_special_token_in_a_title_is_text(language: AnsweringModel) -> None:
    prompts = Prompts(language.tokenizer, ["<|end|> Film"], PromptConfig(), switches("text"))
    tokens, _ = prompts.pieces.join(prompts.suffix(np.asarray([1])), pad_left=True, padding=0)
    ends = [token for token in tokens[0] if token == language.tokenizer.eos_token_id]
    assert len(ends) == 1, "only the turn's own end"


def test_titles_are_cut(make_prompts: Callable[..., Prompts]) -> None:
    assert make_prompts(title_tokens=1).longest < make_prompts(title_tokens=2).longest


def test_longest_bounds_every_prompt(
    make_prompts: Callable[..., Prompts], rng: np.random.Generator
) -> None:
    prompts = make_prompts("sella", history_titles=6)
    liked_BM, item_B = rng.integers(0, 41, (50, 6)), rng.integers(0, 41, 50)
    pieces = [prompts.prefix(liked_BM), prompts.suffix(item_B), prompts.answers(np.ones(50))]
    lengths = prompts.pieces.lengths(np.concatenate(pieces, axis=1))
    assert len(prompts.shared) + lengths.max() <= prompts.longest


@pytest.mark.bad_input
def test_a_tokenizer_without_a_chat_template_gets_a_plain_one(tmp_path: Path) -> None:
    language = AnsweringModel.load(str(write_tiny_llm(tmp_path, chat_template=None)))
    prompts = Prompts(language.tokenizer, ["Film 1"], PromptConfig(), switches("text"))
    assert prompts.frame.opening.endswith("\n")
    assert prompts.frame.closing == "\nAnswer:"
    assert prompts.frame.note is None


@pytest.mark.bad_input
def test_a_template_without_a_system_turn_puts_it_before_the_user_s(tmp_path: Path) -> None:
    language = AnsweringModel.load(str(write_tiny_llm(tmp_path, chat_template=NO_SYSTEM)))
    prompts = Prompts(
        language.tokenizer, ["Film 1"], PromptConfig(system="the user"), switches("text")
    )
    assert prompts.frame.opening == "<|user|>the user\n\n"


@pytest.mark.bad_input
def test_answers_of_several_tokens_are_told_apart_by_the_first_and_it_is_said(
    tmp_path: Path,
) -> None:
    language = AnsweringModel.load(str(write_tiny_llm(tmp_path, by_letter=True)))
    prompts = Prompts(language.tokenizer, ["Film 1"], PromptConfig(), switches("text"))
    assert len(prompts.frame.yes) == 3
    assert str(tmp_path) in str(prompts.frame.note)
    assert "'Y' + 'e' + 's' and 'N' + 'o'" in str(prompts.frame.note)


@pytest.mark.bad_input
def test_answers_that_begin_alike_are_refused(tmp_path: Path) -> None:
    language = AnsweringModel.load(str(write_tiny_llm(tmp_path, words=())))
    with pytest.raises(TrainingError, match=r"cannot tell 'Yes' from 'No'.*'\[UNK\]'"):
        Prompts(language.tokenizer, ["Film 1"], PromptConfig(), switches("text"))


@pytest.mark.bad_input
@pytest.mark.parametrize("key", ["history", "target", "user"])
def test_wording_without_its_hole_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match=rf"sella.prompt.{key} must hold"):
        SellaConfig.model_validate({"prompt": {key: "nothing to fill"}})
