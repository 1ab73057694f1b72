"""Answers to statuses."""

import pytest

from lorecast.knowledge.answers import judge
from lorecast.knowledge.engine import Answer


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (Answer(text="It is gloomy."), "ok"),
        (Answer(text=" \n"), "empty"),
        (Answer(text="It is gloo", finish="length", output_tokens=3), "truncated"),
        (Answer(text="I'm sorry, but I cannot help with that."), "refused"),
        (Answer(text="As an AI language model, I have no tastes."), "refused"),
        (Answer(text="I can't say."), "refused"),
        (Answer(text="Unfortunately, I don't know this film."), "refused"),
        (Answer(text="I Am Legend is a film about a man who says: I cannot go on."), "ok"),
        (Answer(text="Sorry, Wrong Number is a thriller."), "ok"),
        (Answer(text="Unfortunately for its hero, the town is haunted."), "ok"),
        (Answer(finish="error", error="too long"), "failed"),
    ],
)
def test_status(answer: Answer, status: str) -> None:
    assert judge(answer)[0] == status


def test_reasons() -> None:
    assert judge(Answer(finish="error", error="too long"))[1] == "too long"
    assert judge(Answer(text="cut", finish="length", output_tokens=32))[1] == "cut after 32 tokens"
    assert judge(Answer(text="fine"))[1] == ""
