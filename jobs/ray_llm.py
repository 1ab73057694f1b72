"""Blocks of prompts through Ray's own vLLM processor (`ray.data.llm`) into the knowledge store.

Batches overlap inside an engine, so a GPU does not idle while the last answers of a batch are
written; tensor parallelism and placement groups are Ray's. On CPU our own actors are faster.
Answers are stored in batches of `compute.engine_batch` rows: what is in flight when a run dies is
paid again.
"""

import json
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import pyarrow as pa

from lorecast.config import ExperimentConfig, LLMConfig
from lorecast.jobs import cluster
from lorecast.jobs.asking import BlockCounts, Origin, answers_table, count
from lorecast.jobs.vllm_engine import VLLMSettings, check_installed, engine_arguments, environment
from lorecast.knowledge.engine import Answer
from lorecast.knowledge.language_model import LanguageModel
from lorecast.knowledge.store import KnowledgeStore

_BATCH_ROWS = 64
_CONCURRENT_BATCHES = 8
_TOO_LONG = ("longer than", "max_model_len", "maximum context length", "maximum model length")
"""How vLLM says that a prompt leaves no room."""


def ask_with_ray(
    config: ExperimentConfig,
    blocks: Sequence[Path],
    model: LanguageModel,
    store: KnowledgeStore,
    origin: Origin,
) -> Generator[BlockCounts, None, None]:
    """Answers blocks of prompts (`plan.SCHEMA`) into the store; yields counts as they are stored.

    Engines and their placement groups are gone when the iterator is exhausted or closed. A prompt
    that fails is a failed row. Raises EngineError if an engine cannot start.
    """
    import ray

    check_installed()
    compute, llm = config.compute, config.knowledge.llm
    cluster.connect(compute)
    prompts = ray.data.read_parquet(
        [str(block.resolve()) for block in blocks], override_num_blocks=len(blocks)
    )
    answered = _processor(config, model)(prompts)
    stored = answered.map_batches(
        _Writer,
        fn_constructor_kwargs={
            "store": KnowledgeStore(store.folder.resolve()),
            "origin": origin,
            "llm": llm,
        },
        batch_size=compute.engine_batch,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=1),
        num_cpus=0.25,
    )
    before_s = time.monotonic()
    with cluster.our_errors():
        for counts in stored.iter_batches(batch_size=1, batch_format="numpy"):
            values = {name: column.tolist()[0] for name, column in counts.items()}
            now_s = time.monotonic()
            # Engines run side by side; their seconds are those that passed, for each of them.
            yield BlockCounts(**values, seconds=(now_s - before_s) * compute.engines)
            before_s = now_s


def _processor(config: ExperimentConfig, model: LanguageModel) -> Any:
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    compute, llm = config.compute, config.knowledge.llm
    settings = VLLMSettings(
        model=model,
        llm=llm,
        on_gpu=compute.engine_gpus > 0,
        tensor_parallel=compute.engine_tensor_parallel,
    )
    worker = {"CPU": 1.0} | ({"GPU": compute.engine_gpus} if compute.engine_gpus else {})
    small = {"enabled": True, "num_cpus": 0.25, "concurrency": 1}
    engine = vLLMEngineProcessorConfig(
        model_source=model.source,
        engine_kwargs=engine_arguments(settings),
        runtime_env={"env_vars": environment(model, compute.engine_gpus)},
        placement_group_config={"bundles": [worker] * compute.engine_tensor_parallel},
        concurrency=compute.engines,
        batch_size=_BATCH_ROWS,
        max_concurrent_batches=_CONCURRENT_BATCHES,
        should_continue_on_error=True,
        log_engine_metrics=False,
        chat_template_stage=small,
        tokenize_stage=small,
        detokenize_stage=small,
    )

    def request(row: dict[str, Any]) -> dict[str, Any]:
        sampling: dict[str, Any] = {
            "temperature": llm.temperature,
            "top_p": llm.top_p,
            "max_tokens": llm.max_tokens,
        }
        if llm.temperature > 0:
            sampling["seed"] = llm.seed
        if llm.certainty:
            sampling["logprobs"] = 0
        if row["schema"]:
            sampling["structured_outputs"] = {"json": row["schema"]}
        asked = {**row, "messages": json.loads(row["chat"]), "sampling_params": sampling}
        # Ray looks a LoRA adapter up by the row's model.
        return asked | ({"model": model.lora} if model.lora else {})

    return build_processor(engine, preprocess=request)


class _Writer:
    """An actor: judges answers and appends them to the store."""

    def __init__(self, store: KnowledgeStore, origin: Origin, llm: LLMConfig) -> None:
        self._store = store
        self._origin = origin
        self._llm = llm

    def __call__(self, batch: pa.Table) -> dict[str, list[Any]]:
        answers = [self._answer(row) for row in batch.to_pylist()]
        rows = answers_table(batch, answers, self._origin)
        self._store.append(rows)
        counts = count(rows, 0.0)
        counts.pop("seconds")
        return {name: [value] for name, value in counts.items()}

    def _answer(self, row: dict[str, Any]) -> Answer:
        if error := row.get("__inference_error__"):
            is_long = any(words in error for words in _TOO_LONG)
            return Answer(finish="too_long" if is_long else "error", error=error[:500])
        read, written = int(row["num_input_tokens"]), int(row["num_generated_tokens"])
        room = self._llm.max_model_len - self._llm.max_tokens
        if read > room:
            # vLLM answers these in what room is left; the same prompt must have the same fate
            # whoever runs it.
            reason = f"the prompt has {read:,} tokens, and knowledge.llm.max_model_len leaves "
            return Answer(finish="too_long", error=f"{reason}{room:,} beside the answer")
        # The processor does not pass on why an answer ended.
        return Answer(
            text=row["generated_text"].strip(),
            finish="length" if written >= self._llm.max_tokens else "stop",
            prompt_tokens=read,
            output_tokens=written,
            certainty=_certainty(row.get("logprobs")),
        )


def _certainty(logprobs: Sequence[Mapping[Any, Mapping[str, Any]]] | None) -> float | None:
    """See Answer; of each token, which maps to what vLLM says of it."""
    if not logprobs:
        return None
    return float(mean(said["logprob"] for token in logprobs for said in token.values()))
