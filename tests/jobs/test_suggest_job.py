"""suggest: from a scenario to a folder, or to a sentence that says what to change."""

import json
from pathlib import Path

import pytest

from lorecast.errors import EngineError, InputError, KnowledgeError
from lorecast.jobs.suggest import suggest
from lorecast.knowledge.engine import Answer, ScriptedEngine

SUGGESTION = json.dumps(
    {
        side: [{"name": name, "question": f"Which {name}?"} for name in ("topic", "length", "tone")]
        for side in ("item", "user")
    }
    | {"closest": "news"}
)


def _engine(reply: str | Answer) -> ScriptedEngine:
    def answer(prompt: str) -> str | Answer:
        assert "news articles for commuters" in prompt
        return reply

    return ScriptedEngine(answer)


def test_folder_is_written_and_asks(tmp_path: Path):
    output = tmp_path / "my-factors"
    written = suggest("news articles for commuters", output, lambda: _engine(SUGGESTION))
    assert [factor.name for factor in written.user] == ["topic", "length", "tone"]
    [_, message] = written.messages("item", "tone", {"item": {"title": "Trains late"}})
    assert message["content"].startswith("The article:")
    assert message["content"].endswith("Which tone?")


def test_engine_is_bound_to_the_schema(tmp_path: Path):
    schemas = []

    class Listening(ScriptedEngine):
        def chat(self, batch, schemas_=None):
            schemas.extend(schemas_)
            return super().chat(batch)

    suggest("recipes", tmp_path / "mine", lambda: Listening(lambda _: SUGGESTION))
    assert [json.loads(schema)["type"] for schema in schemas] == ["object"]


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("reply", "error", "sentence"),
    [
        ("I know films.", KnowledgeError, "no JSON object"),
        (
            Answer(text=SUGGESTION[:50], finish="length", output_tokens=32),
            KnowledgeError,
            r"cut after 32 tokens.*max_tokens",
        ),
        (
            Answer(finish="too_long", error="a prompt of 400 tokens"),
            KnowledgeError,
            "a prompt of 400 tokens.*max_model_len",
        ),
        (Answer(finish="error", error="HTTP 401"), EngineError, "no suggestion: HTTP 401"),
    ],
)
def test_unusable_answers_leave_no_folder(tmp_path, reply, error, sentence):
    output = tmp_path / "mine"
    with pytest.raises(error, match=sentence):
        suggest("news articles for commuters", output, lambda: _engine(reply))
    assert not output.exists()


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("scenario", "name", "sentence"),
    [("recipes", ".", "exists already"), ("  ", "mine", "blank")],
)
def test_engine_is_not_started_in_vain(tmp_path, scenario, name, sentence):
    def no_engine():
        pytest.fail("the engine was made")

    with pytest.raises(InputError, match=sentence):
        suggest(scenario, tmp_path / name, no_engine)
