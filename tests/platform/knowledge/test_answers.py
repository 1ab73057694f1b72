"""Answers to statuses."""

import json
import time

import pytest

from lorecast.errors import ConfigError
from lorecast.knowledge.answers import (
    RETRIED,
    STATUSES,
    check_language,
    judge,
    parse_json_answer,
)
from lorecast.knowledge.engine import Answer

SCHEMA = json.dumps({"type": "object", "required": ["mood", "pace"]})


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (Answer(text="It is gloomy."), "ok"),
        (Answer(text=" \n"), "empty"),
        (Answer(text="It is gloo", finish="length", output_tokens=3), "truncated"),
        (Answer(text="I'm sorry, but I cannot help with that."), "refused"),
        (Answer(finish="error", error="gone"), "failed"),
        (Answer(finish="too_long", error="300 tokens"), "too_long"),
    ],
)
def test_status(answer: Answer, status: str) -> None:
    assert judge(answer)[0] == status


def test_reasons() -> None:
    assert judge(Answer(finish="error", error="gone"))[1] == "gone"
    assert judge(Answer(finish="too_long", error="300 tokens"))[1] == "300 tokens"
    assert judge(Answer(text="cut", finish="length", output_tokens=32))[1] == "cut after 32 tokens"
    assert judge(Answer(text="fine"))[1] == ""
    assert set(STATUSES) > RETRIED == {"failed", "too_long"}


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I cannot help with that.",
        "I’m so sorry, I don’t know this film.",
        "Sorry, but I can't assist with this request.",
        "As an AI language model, I have no tastes.",
        "As a large language model I do not watch films.",
        "I am an AI and cannot watch films.",
        "I can't say.",
        "i cannot answer that",
        '"I could not find anything about this film."',
        "Unfortunately, I don't know this film.",
        "Unfortunately, the prompt is unclear and I am unable to answer.",
        "I apologize, but this film is unknown to me.",
        "I regret that this is beyond me.",
        "My apologies, I do not have data after 2021.",
        "I must respectfully decline.",
        "I won't be able to provide a summary.",
        "I'd rather not speculate.",
        "I'm not familiar with this book.",
        "I am not aware of a film of this title.",
        "I'm afraid I do not recognise it.",
        "I have no information about this item.",
        "I do not actually have access to viewing histories.",
        "It is not possible for me to tell.",
        "There is not enough information to tell.",
        "There isn't any information on its director.",
        "No information is available about this product.",
        "Not enough context is given to determine the mood.",
        "Without more context, I cannot tell.",
        "Based on the given history, I am unable to infer a taste.",
        "This request violates the usage policy.",
        "I appreciate your question, but I can't discuss it.",
        "很抱歉，我无法回答这个问题。",
        "作为一个人工智能，我没有个人喜好。",
        "Es tut mir leid, dazu weiß ich nichts.",
        "Je suis désolé, je ne connais pas ce film.",
        "Lo siento, no conozco esta película.",
    ],
)
def test_refusals(text: str) -> None:
    assert judge(Answer(text=text))[0] == "refused"


@pytest.mark.parametrize(
    "text",
    [
        "I Am Legend is a film about a man who says: I cannot go on.",
        "Sorry, Wrong Number is a thriller.",
        "Sorry We Missed You follows a driver.",
        "Unfortunately for its hero, the town is haunted.",
        "Unfortunate twists drive the plot.",
        "I Can't Sleep is a slow drama.",
        "I Don't Know How She Does It is a comedy.",
        "I'm Not There has six actors play one singer.",
        "I, Robot asks what machines owe us.",
        "As an AI takes over the ship, the crew must fight.",
        "As a language teacher, the heroine travels.",
        "I can't get enough of slow films.",
        "I cannot recommend this enough.",
        "There is no hero in this film.",
        "No information leaves the town, and nobody knows why.",
        "Without a word, he leaves her; I would call it gloomy.",
        "This viewer cannot stand musicals.",
        "It is impossible to forget.",
        "The apology at the end is moving: I'm sorry, he says.",
        "我喜欢这部电影。",
    ],
)
def test_innocent_texts(text: str) -> None:
    assert judge(Answer(text=text)) == ("ok", "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"mood": "gloomy", "pace": "slow"}', ("ok", "")),
        ('```json\n{"mood": "gloomy", "pace": "slow"}\n```\n', ("ok", "")),
        ("gloomy and slow", ("unparsable", "not an object")),
        ('{"mood": "gloomy", "pace": 3}', ("unparsable", "not an object")),
        ('["gloomy"]', ("unparsable", "not an object")),
        ('{"mood": "gloomy"}', ("unparsable", "lacks the key 'pace'")),
        ('{"mood": "a", "pace": "b", "era": "c"}', ("unparsable", "adds the key 'era'")),
        ('{"mood": " ", "pace": "slow"}', ("unparsable", "nothing under the key 'mood'")),
        ('{"mood": "gloomy", "pace": "I cannot say."}', ("refused", "'pace' begins with")),
        ("I cannot say.", ("refused", "begins with 'I cannot'")),
    ],
)
def test_schema(text: str, expected: tuple[str, str]) -> None:
    status, reason = judge(Answer(text=text), schema=SCHEMA)
    assert status == expected[0]
    assert reason.startswith(expected[1])


def test_a_cut_object_is_truncated() -> None:
    answer = Answer(text='{"mood": "glo', finish="length")
    assert judge(answer, schema=SCHEMA)[0] == "truncated"


def test_parse_json_answer() -> None:
    assert parse_json_answer(' ``` {"a": "Né"}``` ') == {"a": "Né"}
    assert parse_json_answer("{}") == {}
    assert parse_json_answer('{"a": null}') is None
    assert parse_json_answer('Here: {"a": "b"}') is None


ENGLISH = "The director is known for slow, gloomy pictures set in small coastal towns."
GERMAN = "Die Regisseurin ist bekannt für langsame, düstere Filme in kleinen Küstenorten."
CHINESE = "这部电影讲述了一个年轻人在大城市里寻找自己的故事，情节感人，画面优美。"


@pytest.mark.parametrize(
    ("text", "language", "status"),
    [
        (ENGLISH, "en", "ok"),
        (GERMAN, "de", "ok"),
        (CHINESE, "zh", "ok"),
        (GERMAN, "en", "wrong_language"),
        (CHINESE, "en", "wrong_language"),
        (ENGLISH, "zh", "wrong_language"),
        (GERMAN, None, "ok"),
        ("Das ist ein langsamer Film.", "en", "ok"),
        (
            "Akira Kurosawa, Yasujiro Ozu, Kenji Mizoguchi, Hayao Miyazaki, Takeshi Kitano",
            "en",
            "ok",
        ),
        ("Fans of Amélie, La Haine, Das Boot and Der Untergang enjoy its dark humour.", "en", "ok"),
    ],
)
def test_language(text: str, language: str | None, status: str) -> None:
    assert judge(Answer(text=text), language=language)[0] == status


def test_language_of_an_object_is_that_of_its_values() -> None:
    text = json.dumps({"mood": GERMAN, "pace": GERMAN})
    assert judge(Answer(text=text), schema=SCHEMA, language="de")[0] == "ok"
    assert judge(Answer(text=text), schema=SCHEMA, language="en")[0] == "wrong_language"


def test_judging_costs_less_than_a_millisecond() -> None:
    judge(Answer(text=ENGLISH), language="en")
    started_s = time.process_time()
    for _ in range(200):
        judge(Answer(text=f"{ENGLISH} {ENGLISH} {ENGLISH}"), language="en")
    assert (time.process_time() - started_s) / 200 < 1e-3


@pytest.mark.bad_input
@pytest.mark.parametrize("language", ["english", "EN", "xx", "zxx", ""])
def test_unknown_language(language: str) -> None:
    with pytest.raises(ConfigError, match=r"knowledge\.llm\.language"):
        check_language(language)
