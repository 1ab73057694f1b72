"""Fixtures of SeLLa's tests: tiny language models and rows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lorecast.config import SellaConfig
from lorecast.sella.language import AnsweringModel
from lorecast.sella.methods import switches
from lorecast.sella.prompts import Prompts
from lorecast.sella.rows import PromptRows
from tests.sella.tiny_llm import write_tiny_llm

TITLES = tuple(f"Film {number}" for number in range(1, 41))


@pytest.fixture(scope="session")
def tiny_llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a language model; one for all tests, none of which may write there."""
    return write_tiny_llm(tmp_path_factory.mktemp("llm"))


@pytest.fixture
def language(tiny_llm: Path) -> AnsweringModel:
    return AnsweringModel.load(str(tiny_llm))


@pytest.fixture
def make_prompts(language: AnsweringModel) -> Callable[..., Prompts]:
    """Prompts of a method for films 1 to 40."""

    def make(method: Any = "text", *, faithful: bool = False, **wording: Any) -> Prompts:
        config = SellaConfig.model_validate({"prompt": wording}).prompt
        return Prompts(language.tokenizer, TITLES, config, switches(method), faithful=faithful)

    return make


@pytest.fixture
def rows(rng: np.random.Generator) -> PromptRows:
    """Twelve rows with histories of all lengths; pairs of rows share one."""
    liked_BM = rng.integers(1, 41, (12, 4)).astype(np.int32)
    liked_BM[np.arange(4) < 4 - (np.arange(12) // 2 % 5)[:, None]] = 0
    liked_BM[1::2] = liked_BM[::2]
    return PromptRows(
        user_row_B=(np.arange(12) // 2 + 1).astype(np.int32),
        item_row_B=rng.integers(0, 41, 12).astype(np.int32),
        liked_BM=liked_BM,
        label_B=(np.arange(12) % 2).astype(np.float32),
    )


@pytest.fixture
def make_config(tmp_path: Path) -> Callable[[str], Path]:
    """A file with the text of an experiment."""

    def make(text: str) -> Path:
        path = tmp_path / "experiment.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return make
