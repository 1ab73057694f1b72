"""vLLM scores SeLLa's rows: it reads prompts as embeddings and tells the two answers' chances.

Adapters are in the weights where they are float32, as in our own forward pass; vLLM's own way for
them is several times slower on CPU. They stay beside bfloat16 weights, where a merge would round
them away. A prompt's beginning that others share is read once (vLLM's prefix caching goes by the
embeddings). The torch model is loaded, too: it embeds, and its scores of a few rows are compared.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lorecast.config import LLMConfig
from lorecast.errors import EngineError
from lorecast.jobs.vllm_engine import VLLMSettings, engine_arguments, last_line, lora_request
from lorecast.knowledge.language_model import LanguageModel
from lorecast.sella.rows import PromptRows


def scoring(
    folder: Path, batch_size: int, *, on_gpu: bool
) -> Callable[[PromptRows], NDArray[np.float32]]:
    """What scores rows by the model in a folder of `saved`; vLLM runs in this process.

    Needs the variables of `vllm_engine.environment`. Raises ArtifactError, TrainingError or
    EngineError if the model cannot be built.
    """
    from lorecast.sella import saved
    from lorecast.sella.asked import AskedModel

    model = saved.load(folder)
    card, longest = saved.read_card(folder), model.prompts.longest
    answers = model.prompts.frame.yes[0], model.prompts.frame.no[0]
    if card.dtype == "float32":
        language = card.load_language(folder)
        language.load_adapters(folder)
        with TemporaryDirectory(dir=folder.parent, prefix=".merged-") as merged:
            language.save_merged(Path(merged))
            del language
            whole = LanguageModel(source=merged, revision=None, digest=card.digest)
            engine = AnswersEngine(_settings(whole, card.dtype, longest, on_gpu), answers)
    else:
        source, revision = card.language_source(folder)
        adapted = LanguageModel(
            source=source,
            revision=revision,
            digest=card.digest,
            lora=str(folder.resolve()),
            lora_rank=_rank(folder),
        )
        engine = AnswersEngine(_settings(adapted, card.dtype, longest, on_gpu), answers)
    return AskedModel(model, engine, batch_size).score_rows


class AnswersEngine:
    """An Ask (see `lorecast.sella.asked`) over one vLLM instance."""

    def __init__(self, settings: VLLMSettings, answers: tuple[int, int]) -> None:
        """`answers`: tokens of Yes and No. Raises EngineError with vLLM's reason if it does not
        start, among them models that take no embeddings."""
        from vllm import LLM, SamplingParams

        arguments = engine_arguments(settings)
        try:
            self._llm = LLM(settings.model.source, enable_prompt_embeds=True, **arguments)
        except Exception as error:
            raise EngineError(
                f"vLLM cannot start sella.model with embeddings as prompts: {last_line(error)}; "
                "set sella.score_engine=torch"
            ) from error
        self._answers = answers
        self._sampling = SamplingParams(
            temperature=0.0, max_tokens=1, logprob_token_ids=list(answers), detokenize=False
        )
        self._lora = lora_request(settings.model)

    def __call__(self, prompts: Sequence[Any]) -> NDArray[np.float64]:
        """Log-probabilities of the answers, [B, 2]. Raises EngineError if vLLM gives up."""
        try:
            outputs = self._llm.generate(
                [{"prompt_embeds": prompt_TH} for prompt_TH in prompts],
                self._sampling,
                lora_request=self._lora,
                use_tqdm=False,
            )
        except Exception as error:
            raise EngineError(
                f"vLLM stopped scoring: {last_line(error)}; set sella.score_engine=torch"
            ) from error
        return np.asarray(
            [
                [output.outputs[0].logprobs[0][token].logprob for token in self._answers]
                for output in outputs
            ]
        )


def _settings(model: LanguageModel, dtype: str, longest: int, on_gpu: bool) -> VLLMSettings:
    llm = LLMConfig(model=model.source, lora=model.lora, max_model_len=longest, dtype=dtype)
    return VLLMSettings(model=model, llm=llm, on_gpu=on_gpu)


def _rank(folder: Path) -> int:
    from peft import LoraConfig

    return int(LoraConfig.from_pretrained(str(folder)).r)
