"""vLLM inside the process that asks: no server, no second process, nothing between.

On CPU this gave more than twice the throughput of vLLM's own worker process. The environment that
it needs must exist before vLLM and torch are imported: `environment` goes to the actor's runtime.
"""

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from lorecast.config import LLMConfig
from lorecast.errors import EngineError
from lorecast.knowledge.engine import Answer, Chat
from lorecast.knowledge.language_model import LanguageModel

_CPU_SEQUENCES = 256
"""Answers written at the same time on CPU."""
_CPU_BLOCK_TOKENS = 32
"""The finest grain in which vLLM's CPU attention shares the beginnings of prompts."""


def check_installed() -> None:
    """Raises EngineError if vLLM is missing."""
    if importlib.util.find_spec("vllm") is None:
        raise EngineError(
            "vLLM is not installed: pip install 'lorecast[cpu]', or 'lorecast[gpu]' on a machine "
            "with an NVIDIA GPU"
        )


def environment(model: LanguageModel, num_gpus: float) -> dict[str, str]:
    """Variables of the engine's process; those already set by the user win."""
    variables = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
    }
    if model.is_local:
        variables["HF_HUB_OFFLINE"] = "1"
    if num_gpus == 0:
        variables["VLLM_CPU_KVCACHE_SPACE"] = "1"  # GiB
        variables["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"  # `auto` leaves one core idle
    return {name: os.environ.get(name, value) for name, value in variables.items()}


@dataclass(frozen=True, kw_only=True)
class VLLMSettings:
    """What an engine needs to start; travels to the actor."""

    model: LanguageModel
    llm: LLMConfig
    on_gpu: bool
    tensor_parallel: int = 1
    """GPUs that share the model."""


def engine_arguments(settings: VLLMSettings) -> dict[str, Any]:
    """vLLM's own arguments: the model, how it runs, and what prompts share."""
    llm = settings.llm
    arguments: dict[str, Any] = {
        "revision": settings.model.revision,
        "max_model_len": llm.max_model_len,
        "dtype": llm.dtype,
        "seed": llm.seed,
        "enable_prefix_caching": True,
        "disable_log_stats": True,
    }
    if llm.lora is not None:
        arguments |= {"enable_lora": True, "max_lora_rank": _lora_rank(settings.model)}
    if settings.on_gpu:
        return arguments | {"tensor_parallel_size": settings.tensor_parallel}
    return arguments | {
        "enforce_eager": True,
        "max_num_seqs": _CPU_SEQUENCES,
        "block_size": _CPU_BLOCK_TOKENS,
    }


class VLLMEngine:
    """An Engine (see `lorecast.knowledge.engine`) over one vLLM instance."""

    def __init__(self, settings: VLLMSettings) -> None:
        """Loads the model. Raises EngineError with vLLM's reason if that fails."""
        from vllm import LLM

        llm = settings.llm
        try:
            self._llm = LLM(settings.model.source, **engine_arguments(settings))
        except Exception as error:
            raise EngineError(
                f"vLLM cannot start {settings.model.source}: {last_line(error)}"
            ) from error
        self._tokenizer = self._llm.get_tokenizer()
        if self._tokenizer.chat_template is None:
            raise EngineError(
                f"{settings.model.source} has no chat template; use an instruction-tuned model"
            )
        self._config = llm
        self._max_prompt_tokens = llm.max_model_len - llm.max_tokens
        self._lora = lora_request(settings.model)

    def chat(
        self, batch: Sequence[Chat], schemas: Sequence[str | None] | None = None
    ) -> list[Answer]:
        """One answer per chat; over-long prompts are not asked, and those that the chat template
        refuses are errors."""
        answers: dict[int, Answer] = {}
        prompts: dict[int, str] = {}
        for place, chat in enumerate(batch):
            try:
                prompts[place] = self._tokenizer.apply_chat_template(
                    list(chat), add_generation_prompt=True, tokenize=False
                )
            except TemplateError as error:
                answers[place] = _failed(f"the model's chat template: {last_line(error)}")
        encoded = self._tokenizer(list(prompts.values()), add_special_tokens=False)["input_ids"]
        tokens = dict(zip(prompts, encoded, strict=True))
        for place in [p for p, t in tokens.items() if len(t) > self._max_prompt_tokens]:
            answers[place] = Answer(
                finish="too_long",
                error=f"the prompt has {len(tokens.pop(place)):,} tokens, and "
                f"knowledge.llm.max_model_len leaves {self._max_prompt_tokens:,} beside the answer",
            )
        asked = self._generate(
            list(tokens.values()), [schemas[place] if schemas else None for place in tokens]
        )
        answers |= dict(zip(tokens, asked, strict=True))
        return [answers[place] for place in range(len(batch))]

    def _generate(self, prompts: list[list[int]], schemas: Sequence[str | None]) -> list[Answer]:
        if not prompts:
            return []
        sampling = {schema: sampling_params(self._config, schema) for schema in set(schemas)}
        try:
            outputs = self._llm.generate(
                [{"prompt_token_ids": tokens} for tokens in prompts],
                [sampling[schema] for schema in schemas],
                lora_request=self._lora,
                use_tqdm=False,
            )
        except Exception as error:
            raise EngineError(f"vLLM stopped answering: {last_line(error)}") from error
        return [
            Answer(
                text=output.outputs[0].text.strip(),
                finish="length" if output.outputs[0].finish_reason == "length" else "stop",
                prompt_tokens=len(tokens),
                output_tokens=len(output.outputs[0].token_ids),
                certainty=_certainty(output.outputs[0]),
            )
            for tokens, output in zip(prompts, outputs, strict=True)
        ]


def sampling_params(llm: LLMConfig, schema: str | None) -> Any:
    """vLLM's SamplingParams; `schema`, a JSON schema, binds the form of the answer."""
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    return SamplingParams(
        temperature=llm.temperature,
        top_p=llm.top_p,
        max_tokens=llm.max_tokens,
        seed=llm.seed if llm.temperature > 0 else None,
        structured_outputs=StructuredOutputsParams(json=schema) if schema else None,
        logprobs=0 if llm.certainty else None,
    )


def _certainty(completion: Any) -> float | None:
    """See Answer; vLLM sums up only where log-probabilities were asked for."""
    if completion.cumulative_logprob is None or not completion.token_ids:
        return None
    return float(completion.cumulative_logprob / len(completion.token_ids))


def _lora_rank(model: LanguageModel) -> int:
    """The adapter's rank, rounded up to one that vLLM allocates."""
    return max(8, 1 << (model.lora_rank - 1).bit_length())


def lora_request(model: LanguageModel) -> Any:
    """vLLM's LoRARequest for the model's adapter; none if it has none."""
    if model.lora is None:
        return None
    from vllm.lora.request import LoRARequest

    return LoRARequest("adapter", 1, model.lora)


def _failed(reason: str) -> Answer:
    return Answer(finish="error", error=reason)


def last_line(error: Exception) -> str:
    """Of what the error says, where vLLM puts the reason."""
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
