"""Gradient checkpointing: the same losses and gradients, layers run again, caches and all."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lorecast.config.sella import LoRAConfig
from lorecast.errors import TrainingError
from lorecast.sella.language import AnsweringModel, PromptBatch
from lorecast.sella.memory import recompute_layers
from lorecast.sella.prompts import ITEM, USER, Prompts
from lorecast.sella.rows import PromptRows
from lorecast.sella.yes_no import YesNoModel


class _Counted:
    """How often layers have come to their multilayer perceptrons."""

    def __init__(self, causal: nn.Module) -> None:
        self.runs = 0
        for name, module in causal.named_modules():
            if name.endswith(".mlp"):
                module.register_forward_pre_hook(self._count)

    def _count(self, *_: object) -> None:
        self.runs += 1


def _of_adapters(
    folder: Path, prompts: Prompts, rows: PromptRows, dtype: str, *, again: bool
) -> tuple[float, dict[str, Tensor], int]:
    """Loss, gradients by name, and runs of layers in the backward pass; with dropout."""
    language = AnsweringModel.load(str(folder), dtype=dtype)
    torch.manual_seed(1)
    language.add_adapters(LoRAConfig(rank=4, dropout=0.3))
    learned = {n: p for n, p in language.named_parameters() if p.requires_grad}
    for name, parameter in learned.items():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.3)
    if again:
        language.recompute()
    model = YesNoModel(language, prompts, None).train()
    counted = _Counted(language.causal)
    torch.manual_seed(2)
    loss = model.loss(rows)
    forward = counted.runs
    loss.backward()
    grads = {n: p.grad for n, p in learned.items() if p.grad is not None}
    assert grads.keys() == learned.keys()
    return loss.item(), grads, counted.runs - forward


@pytest.mark.parametrize("faithful", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adapters_get_the_same_gradients(
    tiny_llm: Path,
    make_prompts: Callable[..., Prompts],
    rows: PromptRows,
    dtype: str,
    faithful: bool,
) -> None:
    prompts = make_prompts("text", faithful=faithful)
    loss, grads, runs = _of_adapters(tiny_llm, prompts, rows, dtype, again=False)
    assert runs == 0
    again = _of_adapters(tiny_llm, prompts, rows, dtype, again=True)
    assert again[0] == loss
    for name, grad in grads.items():
        torch.testing.assert_close(again[1][name], grad, rtol=1e-5, atol=1e-7, msg=name)
    assert again[2] > 0, "layers ran again"


def test_tokens_before_a_frozen_model_get_the_same_gradients(
    tiny_llm: Path, make_prompts: Callable[..., Prompts], rows: PromptRows
) -> None:
    prompts = make_prompts("collm")
    batch = PromptBatch.of(prompts, rows)
    found = []
    for again in (False, True):
        language = AnsweringModel.load(str(tiny_llm))
        language.answers_only(prompts)
        if again:
            language.recompute()
        torch.manual_seed(3)
        vectors = {
            slot: torch.randn(len(rows), language.width, requires_grad=True)
            for slot in (USER, ITEM)
        }
        logit_B = language.logit(prompts, batch, vectors)
        logit_B.sum().backward()
        found.append((logit_B.detach(), [vector.grad for vector in vectors.values()]))
    (logit_B, grads), (again_B, again_grads) = found
    assert torch.equal(again_B, logit_B)
    torch.testing.assert_close(again_grads, grads)


@pytest.mark.bad_input
def test_a_decoder_without_layers_is_refused() -> None:
    with pytest.raises(
        TrainingError, match=r"Linear has no decoder layers.*sella\.gradient_checkpointing: false"
    ):
        recompute_layers(nn.Linear(2, 2))
