"""`lorecast plan` of SeLLa: counts against the real model and its batches; nothing is made."""

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from lorecast.artifacts import build
from lorecast.config import ExperimentConfig, load_config
from lorecast.config.sella import LoRAConfig
from lorecast.data.dataset import Dataset
from lorecast.errors import ConfigError, TrainingError
from lorecast.jobs import sella_planning
from lorecast.jobs.cli import app
from lorecast.jobs.console import Console
from lorecast.jobs.pipeline import Pipeline
from lorecast.jobs.sella_needs import Need, StageNeeds
from lorecast.jobs.sella_plans import Plans
from lorecast.sella import estimates, sizes
from lorecast.sella.language import AnsweringModel, PromptBatch
from lorecast.sella.prompts import Prompts
from lorecast.sella.rows import PromptRows
from lorecast.sella.sizes import kept_bytes
from lorecast.sella.word_tokens import WordTokens
from tests.sella.tiny_llm import write_tiny_llm
from tests.tiny_dataset import write_tiny_dataset

DEVICE = sella_planning.Device(tflops=1.0, utilisation=0.5)
LORA = LoRAConfig(rank=4)
PUBLISHED = Path(__file__).parents[2] / "configs" / "sella-qwen2-7b.yaml"


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return write_tiny_dataset(tmp_path, num_users=20)


@pytest.fixture
def no_weights(tiny_llm: Path, tmp_path: Path) -> Path:
    """The model's folder with its config and tokenizer alone."""
    ignored = shutil.ignore_patterns("*.safetensors")
    return Path(shutil.copytree(tiny_llm, tmp_path / "no-weights", ignore=ignored))


def _config(workspace: Path, llm: Path, *overrides: str) -> ExperimentConfig:
    words = ["name=tiny", f"compute.workspace={workspace}", f"sella.model={llm}"]
    return load_config(None, [*words, "sella.lora.rank=4", *overrides])


def _found(llm: Path | str) -> sizes.Found:
    return sizes.find(str(llm))


def _plan(
    config: ExperimentConfig, dataset: Dataset, capsys: pytest.CaptureFixture[str]
) -> tuple[dict[str, dict[str, str]], dict[str, Any]]:
    """Lines of the stages' table by stage and what it is of, and the result."""
    capsys.readouterr()
    sella_planning.run(config, dataset, Console(as_json=True), DEVICE)
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    [table] = [e for e in events if e["event"] == "table" and e["title"].startswith("stages")]
    return {f"{ln['stage']} {ln['of']}": ln for ln in table["lines"]}, events[-1]


def test_counts_are_those_of_the_model_with_its_weights(
    tiny_llm: Path, no_weights: Path, language: AnsweringModel
) -> None:
    counted, _ = sizes.sizes(_found(no_weights), LORA, "float32")
    assert counted.parameters == sum(p.numel() for p in language.causal.parameters())
    language.add_adapters(LORA)
    learn = [p.numel() for p in language.causal.parameters() if p.requires_grad]
    assert counted.adapters == sum(learn)
    read = language.causal.get_decoder()(input_ids=_tokens(7), use_cache=True)
    cache = sum(layer.keys.nbytes + layer.values.nbytes for layer in read.past_key_values.layers)
    assert counted.cache_bytes * 7 == cache


def _tokens(count: int) -> Any:
    import torch

    return torch.arange(count)[None]


def test_activations_grow_with_tokens_and_with_adapters(no_weights: Path) -> None:
    _, language = sizes.sizes(_found(no_weights), LORA, "float32")
    frozen, short, long = (
        kept_bytes(language, tokens, adapters_learn=learn)
        for tokens, learn in ((50, False), (50, True), (100, True))
    )
    hidden = 50 * 32 * 4
    assert hidden * 2 < frozen < short < long
    assert 2 * short <= long, "attention's table grows with the square"


@pytest.mark.parametrize("method", ["text", "sella"])
def test_what_is_read_is_what_a_batch_holds(
    make_prompts: Callable[..., Prompts], rows: PromptRows, method: str
) -> None:
    prompts = make_prompts(method, history_titles=4)
    batch = PromptBatch.of(prompts, rows)
    suffixes = int(batch.suffix_real_BT.sum())
    held = len(prompts.shared) + int(batch.prefix_real_GP.sum()) + suffixes
    whole = estimates.reading(prompts, rows, len(rows))
    assert (whole.read, whole.learnt) == (held, 0)
    assert whole.tokens > held, "pairs of rows share a prefix"
    halves = estimates.reading(prompts, rows, len(rows) // 2, learns="all")
    assert halves.read == halves.learnt == held + len(prompts.shared)
    assert estimates.reading(prompts, rows, 4, learns="suffix").learnt == suffixes


def test_the_published_code_reads_every_prompt_whole(
    make_prompts: Callable[..., Prompts], rows: PromptRows
) -> None:
    prompts = make_prompts("text", faithful=True, history_titles=4)
    trained = estimates.reading(prompts, rows, 4, learns="suffix")
    scored = estimates.reading(prompts, rows, 4)
    assert trained.read == trained.learnt == trained.tokens
    assert trained.tokens > scored.tokens, "answers are trained on"


def test_a_plan_without_weights_says_so_and_makes_nothing(
    no_weights: Path, tmp_path: Path, dataset: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    config = _config(tmp_path, no_weights, "training.seeds=[0,1]")
    stages, result = _plan(config, dataset, capsys)
    assert list(stages) == [
        "sella-tune text",
        "sella-vectors titles",
        "sella-align mf",
        "sella-guide collm",
        "sella-align aligned items",
        "sella-guide sella",
        *(f"sella-score {method}" for method in ("mf", "text", "collm", "sella")),
    ]
    assert {line["missing"] for line in stages.values()} == {"2 of 2"}
    assert any("no weights" in note and "config.json" in note for note in result["notes"])
    assert not list(tmp_path.glob("sella-*"))


def test_what_is_made_already_is_not_missing(
    tiny_llm: Path, tmp_path: Path, dataset: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    config = _config(tmp_path, tiny_llm, "training.seeds=[0,1]")
    _, before = _plan(config, dataset, capsys)
    assert before["notes"] == []
    with build(tmp_path, Plans(config, dataset).tune(1).spec):
        pass
    stages, after = _plan(config, dataset, capsys)
    assert stages["sella-tune text"]["missing"] == "1 of 2"
    assert stages["sella-score text"]["missing"] == "2 of 2"
    assert after["missing"] == before["missing"] - 1
    assert 0 < after["hours"] < before["hours"]


def test_work_and_steps_follow_the_config(tiny_llm: Path, tmp_path: Path, dataset: Dataset) -> None:
    def tune(*overrides: str) -> Need:
        config = _config(tmp_path, tiny_llm, "sella.methods=[text]", *overrides)
        needs = StageNeeds(config, dataset, _found(tiny_llm))
        return next(s.need for s in needs.stages() if s.stage == "sella-tune")

    once = tune("sella.tune.checks=1", "sella.tune.batch_size=16")
    assert once.steps == -(-once.rows // 16)
    twice = tune("sella.tune={checks: 1, batch_size: 16, epochs: 2}")
    assert (twice.steps, twice.flops) == (2 * once.steps, pytest.approx(2 * once.flops))
    fewer = tune("sella.tune={checks: 1, batch_size: 16, rows: 60}")
    assert fewer.rows <= 60
    assert fewer.flops < once.flops
    small, large = (tune(f"sella.micro_batch={size}").memory for size in (4, 8))
    assert small is not None
    assert large is not None
    assert (large.kept, large.anew) == (2 * small.kept, 2 * small.anew)
    assert (large.weights, large.learnt) == (small.weights, small.learnt)
    assert large.all_anew < large.all_kept


def test_the_published_experiment_is_planned_offline(
    tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pipeline, "dataset", property(lambda _: dataset))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(
        socket.socket, "connect", lambda *_: pytest.fail("a plan does not use the network")
    )
    words = [str(PUBLISHED), f"compute.workspace={tmp_path}", "--plan"]
    for command in ("run", "train"):
        called = CliRunner().invoke(app, [command, *words, "--json"])
        assert called.exit_code == 0, called.output
        notes = " ".join(json.loads(called.stdout.splitlines()[-1])["notes"])
        assert "published sizes" in notes
        assert WordTokens.about in notes
        assert "7,615,616,512 parameters" in called.stdout
    assert not list(tmp_path.glob("sella-*"))


@pytest.mark.bad_input
def test_a_model_of_unknown_size_is_named() -> None:
    with pytest.raises(ConfigError, match=r"no config\.json of nobody/nothing"):
        _found("nobody/nothing")


@pytest.mark.bad_input
def test_prompts_that_outgrow_the_model_are_found_by_the_plan(
    tmp_path: Path, dataset: Dataset
) -> None:
    llm = write_tiny_llm(tmp_path / "short", max_length=40)
    needs = StageNeeds(_config(tmp_path, llm), dataset, _found(llm))
    with pytest.raises(TrainingError, match="takes 40 tokens"):
        needs.stages()


def test_words_are_tokens_and_come_back() -> None:
    tokens = WordTokens("some/model")
    text = "<|im_start|>Sixth Sense, The (1999)"
    assert tokens.decode(tokens.encode(text)) == text
    parts = tokens.convert_ids_to_tokens(tokens.encode(text))
    assert parts == ["<|im_start|>", "Sixth", " Sense", ",", " The", " (", *"1999", ")"]
    assert len(tokens.encode("Extraordinary")) == 3
    assert np.unique(tokens.encode("one one")).size == 2
