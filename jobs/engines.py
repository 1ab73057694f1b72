"""Which engine answers, and how its processes are laid out on the cluster.

vllm, blocks          vLLM inside our actors, a block of prompts at a time
vllm, ray_data_llm    Ray's own processor: batches overlap inside an engine
openai                actors that call an OpenAI-compatible endpoint
"""

import os
from collections.abc import Generator, Sequence
from functools import partial
from pathlib import Path

from lorecast.config import ExperimentConfig
from lorecast.jobs.asking import BlockCounts, MakeEngine, Origin, ask
from lorecast.jobs.blocks import thread_environment
from lorecast.jobs.openai_engine import OpenAIEngine, OpenAISettings
from lorecast.jobs.vllm_engine import VLLMEngine, VLLMSettings, check_installed, environment
from lorecast.knowledge.engine import Engine
from lorecast.knowledge.language_model import LanguageModel, endpoint_model, find_language_model
from lorecast.knowledge.store import KnowledgeStore


def find_model(config: ExperimentConfig) -> LanguageModel:
    """The experiment's language model. Raises EngineError if it is missing or unusable."""
    llm = config.knowledge.llm
    if llm.engine == "openai":
        return endpoint_model(llm.model)
    memo = config.compute.folder / ".digests"
    if llm.model == "world":
        from lorecast.world import llm_path

        return find_language_model(str(llm_path()), lora=llm.lora, memo=memo)
    return find_language_model(llm.model, llm.revision, lora=llm.lora, memo=memo)


def make_engine(config: ExperimentConfig, model: LanguageModel) -> MakeEngine:
    """What starts one engine, in the process that will ask it."""
    llm, compute = config.knowledge.llm, config.compute
    if llm.engine == "openai":
        return partial(
            OpenAIEngine, OpenAISettings(model=model.source, llm=llm, share=compute.engines)
        )
    check_installed()
    settings = VLLMSettings(
        model=model,
        llm=llm,
        on_gpu=compute.engine_gpus > 0,
        tensor_parallel=compute.engine_tensor_parallel,
    )
    return partial(VLLMEngine, settings)


def start_here(config: ExperimentConfig) -> Engine:
    """One engine in this process, for a single question."""
    model = find_model(config)
    if config.knowledge.llm.engine == "vllm":
        quiet = {"VLLM_LOGGING_LEVEL": "ERROR"}
        os.environ.update(quiet | environment(model, config.compute.engine_gpus))
    return make_engine(config, model)()


def answers(
    config: ExperimentConfig,
    blocks: Sequence[Path],
    model: LanguageModel,
    store: KnowledgeStore,
    origin: Origin,
    replacement: MakeEngine | None = None,
) -> Generator[BlockCounts, None, None]:
    """Answers blocks of prompts into the store; yields counts as they finish.

    `replacement` starts another engine than the configured one. Engines are gone when the iterator
    is exhausted or closed. Raises EngineError if an engine cannot start, breaks or stalls.
    """
    compute = config.compute
    is_vllm = config.knowledge.llm.engine == "vllm" and replacement is None
    gpus = compute.engine_gpus * compute.engine_tensor_parallel if is_vllm else 0.0
    runner = compute.engine_runner
    if is_vllm and (runner == "ray_data_llm" or (runner == "auto" and gpus > 0)):
        from lorecast.jobs.ray_llm import ask_with_ray

        return ask_with_ray(config, blocks, model, store, origin)
    variables = thread_environment(compute, compute.engines)
    if is_vllm:
        variables |= environment(model, gpus)
    return ask(
        blocks,
        replacement or make_engine(config, model),
        store,
        origin,
        compute,
        variables,
        gpus,
        # An endpoint has its own limits for a call, and may have to be waited for.
        stall_s=None if config.knowledge.llm.engine == "openai" else compute.engine_stall_s,
    )
