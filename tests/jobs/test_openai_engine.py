"""The OpenAI-compatible engine against a small real HTTP server that misbehaves on demand."""

import json
import logging
import pickle
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from lorecast.config import LLMConfig
from lorecast.errors import EngineError
from lorecast.jobs import openai_engine
from lorecast.jobs.openai_engine import OpenAIEngine, OpenAISettings
from lorecast.knowledge.engine import Answer, Chat

KEY = "sk-very-secret"


@dataclass
class Reply:
    """What the server does with one call; `cut` closes the connection without an answer."""

    status: int = 200
    body: Any = None
    """A web page (str), raw JSON (bytes) or what is written as JSON."""
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    cut: bool = False


def completion(text: str, finish: str = "stop") -> Reply:
    choice = {
        "index": 0,
        "finish_reason": finish,
        "message": {"role": "assistant", "content": text},
    }
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    return Reply(
        body={
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": "m",
            "choices": [choice],
            "usage": usage,
        }
    )


def refusal(status: int, message: str, **headers: str) -> Reply:
    return Reply(status, {"error": {"message": message}}, headers)


class Endpoint(ThreadingHTTPServer):
    """`reply(prompt, nth)` decides what happens to the nth call (from 0) of a prompt."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, reply: Callable[[str, int], Reply], port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.reply = reply
        self.lock = threading.Lock()
        self.requests: list[dict[str, Any]] = []
        self.calls: Counter[str] = Counter()
        self.keys: set[str] = set()
        self.in_flight = self.most_in_flight = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        prompt = request["messages"][-1]["content"]
        server = self.server
        with server.lock:
            server.requests.append(request)
            server.keys.add(self.headers["authorization"])
            nth = server.calls[prompt]
            server.calls[prompt] += 1
            server.in_flight += 1
            server.most_in_flight = max(server.most_in_flight, server.in_flight)
        reply = server.reply(prompt, nth)
        time.sleep(reply.delay_s)
        with server.lock:
            server.in_flight -= 1
        if reply.cut:
            return
        is_page = isinstance(reply.body, str)
        content = (
            reply.body.encode()
            if is_page
            else reply.body
            if isinstance(reply.body, bytes)
            else json.dumps(reply.body).encode()
        )
        self.send_response(reply.status)
        self.send_header("content-type", "text/html" if is_page else "application/json")
        self.send_header("content-length", str(len(content)))
        for name, value in reply.headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@contextmanager
def serving(reply: Callable[[str, int], Reply], port: int = 0) -> Iterator[Endpoint]:
    with Endpoint(reply, port) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def engine(url: str, share: int = 1, **llm: Any) -> OpenAIEngine:
    config = LLMConfig(**{"base_url": url, "retry_s": 20.0, "timeout_s": 10.0, **llm})
    return OpenAIEngine(OpenAISettings(model="m", llm=config, share=share))


def chats(*prompts: str) -> list[Chat]:
    return [[{"role": "user", "content": prompt}] for prompt in prompts]


def echo(prompt: str, _: int) -> Reply:
    return completion(f"about {prompt}")


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_engine, "_FIRST_WAIT_S", 0.02)
    monkeypatch.setattr(openai_engine, "_LONGEST_WAIT_S", 0.2)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def test_answers_in_order_with_the_given_sampling() -> None:
    def reply(prompt: str, _: int) -> Reply:
        late = completion(f" about {prompt}\n", "length" if prompt == "b" else "stop")
        late.delay_s = 0.1 if prompt == "a" else 0.0
        return late

    schema = json.dumps({"type": "object", "required": ["mood"]})
    with serving(reply) as server:
        answers = engine(server.url, max_tokens=9).chat(chats("a", "b"), [None, schema])
    assert answers == [
        Answer(text="about a", prompt_tokens=7, output_tokens=3),
        Answer(text="about b", finish="length", prompt_tokens=7, output_tokens=3),
    ]
    plain, bound = sorted(server.requests, key=lambda request: "response_format" in request)
    assert plain == {
        "model": "m",
        "messages": [{"role": "user", "content": "a"}],
        "temperature": 0.0,
        "top_p": 1.0,
        "max_tokens": 9,
    }
    assert bound["response_format"]["type"] == "json_schema"
    assert bound["response_format"]["json_schema"]["schema"] == json.loads(schema)


def test_certainty_is_the_mean_log_probability_where_the_endpoint_tells_it() -> None:
    def reply(prompt: str, _: int) -> Reply:
        answer = completion(prompt)
        if prompt == "told":
            tokens = [{"token": "t", "logprob": p, "top_logprobs": []} for p in (-0.25, -0.75)]
            answer.body["choices"][0]["logprobs"] = {"content": tokens}
        return answer

    with serving(reply) as server:
        answers = engine(server.url, certainty=True).chat(chats("told", "silent"))
    assert [answer.certainty for answer in answers] == [-0.5, None]
    assert all(request["logprobs"] is True for request in server.requests)


def test_the_seed_goes_along_when_answers_are_sampled() -> None:
    with serving(echo) as server:
        engine(server.url, temperature=0.7, top_p=0.9, seed=5).chat(chats("a"))
    [request] = server.requests
    assert (request["seed"], request["temperature"], request["top_p"]) == (5, 0.7, 0.9)


def test_no_chats_no_calls() -> None:
    with serving(echo) as server:
        assert engine(server.url).chat([]) == []
    assert not server.requests


def test_what_may_pass_is_repeated_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    troubles = {
        "busy": refusal(429, "slow down"),
        "broken": refusal(500, "oops"),
        "away": refusal(503, "loading"),
        "cut": Reply(cut=True),
        "hangs": Reply(cut=True, delay_s=0.8),
        "garbled": Reply(body=b"{not json"),
    }

    def reply(prompt: str, nth: int) -> Reply:
        return troubles[prompt] if nth < 2 else echo(prompt, nth)

    with serving(reply) as server, caplog.at_level(logging.INFO, openai_engine.__name__):
        asked = engine(server.url, timeout_s=0.4)
        answers = asked.chat(chats(*troubles))
    assert [answer.text for answer in answers] == [f"about {prompt}" for prompt in troubles]
    assert asked.retries.total() == 12
    assert asked.retries["status 429"] == 2
    assert asked.retries["no answer within 0.4 s"] == 2
    [warning] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert server.url in warning.message
    assert "12 calls for 6 chats were repeated" in caplog.text


@pytest.mark.parametrize("as_date", [False, True])
def test_retry_after_is_honoured(as_date: bool) -> None:
    def reply(prompt: str, nth: int) -> Reply:
        return echo(prompt, nth) if nth else refusal(429, "slow down", retry_after=wanted)

    now_s = time.time()
    wanted = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(now_s + 3)) if as_date else "1"
    with serving(reply) as server:
        [answer] = engine(server.url).chat(chats("a"))
    assert answer.text == "about a"
    assert time.time() - now_s >= 1.0


def test_a_refused_chat_does_not_disturb_the_others() -> None:
    troubles = {
        "bad": refusal(400, "no such parameter"),
        "long": refusal(400, "This model's maximum context length is 256 tokens. However, …"),
        "coded": Reply(400, {"error": {"message": "no", "code": "context_length_exceeded"}}),
        "filtered": completion("half", "content_filter"),
        "void": Reply(200, {"error": {"message": "no provider"}}),
    }
    with serving(lambda prompt, nth: troubles.get(prompt) or echo(prompt, nth)) as server:
        answers = engine(server.url).chat(chats("a", *troubles, "b"))
    assert [answer.finish for answer in answers] == [
        "stop",
        "error",
        "too_long",
        "too_long",
        "error",
        "error",
        "stop",
    ]
    assert "status 400: no such parameter" in answers[1].error
    assert "256 tokens" in answers[2].error
    assert set(server.calls.values()) == {1}


def test_a_chat_that_alone_fails_is_given_up() -> None:
    def reply(prompt: str, nth: int) -> Reply:
        answer = refusal(500, "oops") if prompt == "poison" else echo(prompt, nth)
        answer.delay_s = 0.3 if prompt == "poison" else 0.05
        return answer

    others = [str(number) for number in range(60)]
    with serving(reply) as server:
        poison, *rest = engine(server.url, concurrency=2).chat(chats("poison", *others))
    assert poison.finish == "error"
    assert "status 500: oops, 5 times while other chats were answered" in poison.error
    assert all(answer.finish == "stop" for answer in rest)
    assert server.calls["poison"] == 5


def test_a_chat_that_stays_busy_while_others_pass_fails_alone() -> None:
    def reply(prompt: str, nth: int) -> Reply:
        answer = refusal(429, "slow down") if prompt == "unlucky" else echo(prompt, nth)
        answer.delay_s = 0.05
        return answer

    others = [str(number) for number in range(40)]
    with serving(reply) as server:
        asked = engine(server.url, concurrency=2, retry_s=0.5)
        unlucky, *rest = asked.chat(chats("unlucky", *others))
    assert unlucky.finish == "error"
    assert all(answer.finish == "stop" for answer in rest)


def test_a_restart_costs_only_waiting() -> None:
    def slow(prompt: str, nth: int) -> Reply:
        answer = echo(prompt, nth)
        answer.delay_s = 0.05
        return answer

    prompts = [str(number) for number in range(60)]
    answers: list[Answer] = []
    with serving(slow) as server:
        asked = engine(server.url, concurrency=4)
        client = threading.Thread(target=lambda: answers.extend(asked.chat(chats(*prompts))))
        client.start()
        while server.calls.total() < 20:
            time.sleep(0.01)
    # Threads of the closed server may still answer what they had begun.
    time.sleep(0.5)
    with serving(slow, server.server_port) as again:
        client.join()
    assert [answer.text for answer in answers] == [f"about {prompt}" for prompt in prompts]
    assert asked.retries.total() > 0
    calls = server.calls + again.calls
    assert calls.keys() == set(prompts)
    assert calls.total() - len(prompts) <= 4  # those in flight when the server went


def test_pace_and_concurrency_are_shared() -> None:
    def slow(prompt: str, nth: int) -> Reply:
        answer = echo(prompt, nth)
        answer.delay_s = 0.1
        return answer

    prompts = [str(number) for number in range(9)]
    with serving(slow) as server:
        engine(server.url, share=2, concurrency=6).chat(chats(*prompts))
    assert 1 < server.most_in_flight <= 3
    with serving(echo) as server:
        paced = engine(server.url, share=2, requests_per_s=40.0)
        started_s = time.monotonic()
        paced.chat(chats(*prompts[:5]))
        paced.chat(chats(*prompts[5:]))
        assert time.monotonic() - started_s >= 8 / 20


def test_the_key_comes_from_the_named_variable_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    settings = OpenAISettings(model="m", llm=LLMConfig())
    assert KEY.encode() not in pickle.dumps(settings)
    with serving(echo) as server:
        engine(server.url, api_key_env="OTHER_KEY").chat(chats("a"))
        assert not [key for key in server.keys if KEY in key]
        monkeypatch.setenv("OTHER_KEY", "mine\n")
        engine(server.url, api_key_env="OTHER_KEY").chat(chats("a"))
        assert "Bearer mine" in server.keys


@pytest.mark.bad_input
@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("key", [KEY, None])
def test_a_wrong_key_ends_the_engine_and_is_not_told(
    monkeypatch: pytest.MonkeyPatch, status: int, key: str | None
) -> None:
    if key:
        monkeypatch.setenv("MY_KEY", key)
    with (
        serving(lambda *_: refusal(status, f"wrong key {KEY}")) as server,
        pytest.raises(EngineError, match="environment variable MY_KEY") as caught,
    ):
        engine(server.url, api_key_env="MY_KEY").chat(chats("a", "b"))
    assert server.url in str(caught.value)
    assert ("is refused" if key else "is not set") in str(caught.value)
    assert key is None or KEY not in str(caught.value)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("reply", "sentence"),
    [
        (refusal(404, "The model `m` does not exist."), "does not serve 'm' .*knowledge.llm.model"),
        (Reply(200, "<html>hello</html>"), "no OpenAI-compatible API.*knowledge.llm.base_url"),
        (
            Reply(429, {"error": {"message": "pay", "code": "insufficient_quota"}}),
            "no quota left",
        ),
        (refusal(429, "later", retry_after="3600"), "did not answer for 1 s .status 429: later"),
        (refusal(500, "oops"), "did not answer for 1 s .status 500: oops"),
        (Reply(cut=True), "did not answer for 1 s .no connection: Server disconnected"),
    ],
)
def test_an_endpoint_of_no_use_ends_the_engine(reply: Reply, sentence: str) -> None:
    with serving(lambda *_: reply) as server, pytest.raises(EngineError, match=sentence) as caught:
        engine(server.url, retry_s=1.0).chat(chats("a", "b", "c"))
    assert server.url in str(caught.value)


@pytest.mark.bad_input
def test_an_endpoint_that_is_not_there() -> None:
    with serving(echo) as server:
        url = server.url
    started_s = time.monotonic()
    with pytest.raises(EngineError, match=r"did not answer for 1 s .*knowledge\.llm\.base_url"):
        engine(url, retry_s=1.0).chat(chats("a"))
    assert time.monotonic() - started_s >= 1.0


@pytest.mark.bad_input
def test_an_address_and_a_key_of_no_use(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EngineError, match=r"knowledge\.llm\.base_url"):
        engine("127.0.0.1:8000/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-•••")
    with pytest.raises(EngineError, match="OPENAI_API_KEY") as caught:
        engine("http://127.0.0.1:8000/v1")
    assert "•" not in str(caught.value)
