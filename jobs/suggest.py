"""suggest: a factor set for one's own scenario, drafted by a language model."""

from collections.abc import Callable
from pathlib import Path

from lorecast.errors import EngineError, KnowledgeError
from lorecast.knowledge.engine import Engine
from lorecast.knowledge.factors import FactorSet
from lorecast.knowledge.suggest import (
    check_new_folder,
    parse_suggestion,
    suggestion_messages,
    suggestion_schema,
    write_factor_set,
)


def suggest(scenario: str, output: Path, make_engine: Callable[[], Engine]) -> FactorSet:
    """Writes a factor set for `scenario` to the new folder `output`, and returns it loaded.

    The engine is made only when scenario and folder are fit. Raises InputError if they are not,
    EngineError if the model gives no answer, and KnowledgeError if its answer cannot be used.
    """
    check_new_folder(output)
    chat = suggestion_messages(scenario)
    [answer] = make_engine().chat([chat], [suggestion_schema()])
    if answer.finish == "too_long":
        raise KnowledgeError(
            f"the language model cannot be asked for a suggestion: {answer.error}; let "
            "knowledge.llm.max_model_len be at least 4096"
        )
    if answer.finish == "error":
        raise EngineError(f"the language model gave no suggestion: {answer.error}")
    if answer.finish == "length":
        raise KnowledgeError(
            f"the language model's suggestion was cut after {answer.output_tokens} tokens: "
            "let knowledge.llm.max_tokens be at least 2048"
        )
    return write_factor_set(output, scenario, parse_suggestion(answer.text))
