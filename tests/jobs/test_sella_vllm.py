"""vLLM as SeLLa's scorer: with a stand-in for vLLM, and through Ray with the real one."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from lorecast.artifacts import Artifact, StageSpec
from lorecast.config import load_config
from lorecast.data.dataset import Dataset
from lorecast.errors import EngineError
from lorecast.jobs import sella_vllm, sella_work
from lorecast.jobs.console import Console
from lorecast.jobs.sella_plans import Model, Plan, Plans
from lorecast.sella import saved
from lorecast.sella.language import AnsweringModel
from lorecast.sella.methods import switches
from lorecast.sella.recipe import Stage
from lorecast.sella.rows import PromptRows
from tests.sella.small_sella import CONFIG, write_sella
from tests.sella.tiny_llm import write_tiny_llm
from tests.tiny_dataset import write_tiny_dataset


class StandIn:
    """The part of vLLM's LLM that scoring uses, by the plain forward pass."""

    started: Sequence["StandIn"] = ()

    def __init__(self, source: str, **arguments: Any) -> None:
        assert arguments["enable_prompt_embeds"]
        self.source, self.arguments = source, arguments
        self.language = AnsweringModel.load(source, None, arguments["dtype"])
        self.asked: list[int] = []
        StandIn.started = [*StandIn.started, self]

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[Mapping[str, torch.Tensor]],
        sampling: Any,
        *,
        lora_request: Any,
        use_tqdm: bool,
    ) -> list[Any]:
        assert not use_tqdm
        if lora_request is not None and not hasattr(self.language.causal, "peft_config"):
            self.language.load_adapters(Path(lora_request.path))
        self.asked.append(len(prompts))
        outputs = []
        for prompt in prompts:
            with self.language.products():
                logit_V = self.language.causal(inputs_embeds=prompt["prompt_embeds"][None]).logits
            log_V = logit_V[0, -1].float().log_softmax(0)
            told = {t: SimpleNamespace(logprob=float(log_V[t])) for t in sampling.logprob_token_ids}
            outputs.append(SimpleNamespace(outputs=[SimpleNamespace(logprobs=[told])]))
        return outputs


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[type], None]:
    """Puts a class in the place of vLLM's LLM."""

    def put(llm: type) -> None:
        vllm, request = ModuleType("vllm"), ModuleType("vllm.lora.request")
        vllm.__dict__.update(LLM=llm, SamplingParams=SimpleNamespace)
        request.__dict__.update(LoRARequest=lambda _, __, path: SimpleNamespace(path=path))
        modules = {"vllm": vllm, "vllm.lora": ModuleType("vllm.lora"), "vllm.lora.request": request}
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, name, module)

    monkeypatch.setattr(StandIn, "started", ())
    return put


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return write_tiny_dataset(tmp_path, num_users=30)


@pytest.fixture
def rows(dataset: Dataset) -> PromptRows:
    return PromptRows.load(dataset, "test", CONFIG, 4.0)


@pytest.fixture
def make_model(tmp_path: Path, dataset: Dataset) -> Callable[..., Path]:
    """The folder of a model with random adapters and tokens."""

    def make(method: Any = "sella", **card: Any) -> Path:
        trained, _ = write_sella(tmp_path, dataset, write_tiny_llm(tmp_path / "llm"), method)
        told = json.loads((trained.path / saved.CARD).read_text())
        (trained.path / saved.CARD).write_text(json.dumps(told | card))
        return trained.path

    return make


@pytest.mark.parametrize(
    ("method", "card"),
    [("sella", {}), ("text", {}), ("sella", {"faithful": True})],
    ids=["sella", "text", "faithful"],
)
def test_probabilities_are_the_plain_forward_pass_s(
    stand_in: Callable[[type], None],
    make_model: Callable[..., Path],
    rows: PromptRows,
    method: str,
    card: dict[str, Any],
) -> None:
    stand_in(StandIn)
    folder = make_model(method, **card)
    expected_B = saved.load(folder).probabilities(rows, 64)
    found_B = sella_vllm.scoring(folder, 7, on_gpu=False)(rows)
    np.testing.assert_allclose(found_B, expected_B, atol=1e-5)
    assert np.ptp(expected_B) > 1e-3
    (engine,) = StandIn.started
    assert "enable_lora" not in engine.arguments, "adapters are in the weights"
    assert not Path(engine.source).exists(), "and the weights are gone from the disk"
    assert max(engine.asked[1:]) == 7, "after the rows that are compared"


def test_adapters_stay_beside_bfloat16_weights(
    stand_in: Callable[[type], None], make_model: Callable[..., Path], rows: PromptRows
) -> None:
    stand_in(StandIn)
    folder = make_model("sella", dtype="bfloat16")
    expected_B = saved.load(folder).probabilities(rows, 64)
    found_B = sella_vllm.scoring(folder, 64, on_gpu=False)(rows)
    np.testing.assert_allclose(found_B, expected_B, atol=0.05)
    (engine,) = StandIn.started
    assert engine.source == saved.read_card(folder).source
    assert (engine.arguments["dtype"], engine.arguments["max_lora_rank"]) == ("bfloat16", 8)


@pytest.mark.bad_input
def test_an_engine_that_computes_something_else_is_found_out(
    stand_in: Callable[[type], None], make_model: Callable[..., Path], rows: PromptRows
) -> None:
    class Other(StandIn):
        def generate(self, prompts: Any, *args: Any, **named: Any) -> list[Any]:
            scaled = [{"prompt_embeds": 3.0 * prompt["prompt_embeds"]} for prompt in prompts]
            return super().generate(scaled, *args, **named)

    stand_in(Other)
    score = sella_vllm.scoring(make_model(), 64, on_gpu=False)
    with pytest.raises(EngineError, match=r"plain forward .*score_engine=torch"):
        score(rows)


@pytest.mark.bad_input
def test_a_model_that_takes_no_embeddings_is_named_with_vllm_s_reason(
    stand_in: Callable[[type], None], make_model: Callable[..., Path]
) -> None:
    class Refusing:
        def __init__(self, *_: Any, **__: Any) -> None:
            raise ValueError("told before\n--enable-prompt-embeds is not supported with it")

    stand_in(Refusing)
    with pytest.raises(EngineError, match=r"sella\.model .*: --enable-prompt-embeds is not"):
        sella_vllm.scoring(make_model(), 64, on_gpu=False)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_the_test_part_scored_by_vllm(
    tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("vllm", reason="vLLM is an extra: pip install 'lorecast[cpu]'")
    llm = write_tiny_llm(tmp_path / "llm", width=64)  # attention on CPU takes heads of 32 numbers
    trained, by_torch = write_sella(tmp_path, dataset, llm)
    overrides = [
        f"compute.workspace={tmp_path}",
        "compute.threads=1",
        f"sella.model={llm}",
        f"sella.prompt.history_titles={CONFIG.prompt.history_titles}",
        "sella.score_engine=vllm",
    ]
    plans = Plans(load_config(None, overrides), dataset)
    manifest = trained.manifest
    spec = StageSpec(**{key: manifest[key] for key in ("stage", "name", "identity", "inputs")})
    stage = Stage(kind="guide", seed=0, method=switches("sella"))
    monkeypatch.setattr(Plans, "last", lambda *_: Plan(spec, stage))
    model = Model("sella", 0)
    sella_work.score(plans, [model], Console(quiet=True))
    scored = Artifact.open(plans.score(model).folder(tmp_path))
    assert scored.facts["engine"] == "vllm"
    found_B, expected_B = (
        pq.read_table(artifact.path / "scores.parquet")["score"].to_numpy()
        for artifact in (scored, by_torch)
    )
    np.testing.assert_allclose(found_B, expected_B, atol=1e-4)
    assert np.ptp(expected_B) > 1e-3
