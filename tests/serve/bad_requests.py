"""Requests that a client may send and that are refused, with the reason."""

import json
from typing import Any

MAX_ITEMS = 10_000
"""The server's limit that these requests exceed."""


def _score(**changes: Any) -> str:
    body = {"user_id": "u1", "item_ids": ["i1"], **changes}
    return json.dumps({key: value for key, value in body.items() if value is not ...})


def _rank(**changes: Any) -> str:
    return json.dumps({"user_id": "u1", "k": 3, **changes})


BAD: dict[str, tuple[str, str | bytes, int, str]] = {
    "empty body": ("/v1/score", b"", 400, "not JSON"),
    "broken JSON": ("/v1/score", '{"user_id": "u1", ', 400, "not JSON"),
    "not UTF-8": ("/v1/score", b'{"user_id": "\xff"}', 400, "not JSON"),
    "deep nesting": ("/v1/score", "[" * 100_000, 400, "recursion"),
    "huge integer": ("/v1/score", '{"user_id": ' + "9" * 10_000 + "}", 400, "not JSON"),
    "lone surrogate": ("/v1/score", '{"user_id": "\\ud800", "item_ids": ["i1"]}', 400, "JSON"),
    "a list": ("/v1/score", "[]", 422, "must be a JSON object"),
    "null": ("/v1/score", "null", 422, "must be a JSON object"),
    "no items": ("/v1/score", _score(item_ids=[]), 422, "item_ids: must not be empty"),
    "no item key": ("/v1/score", _score(item_ids=...), 422, "item_ids: is required"),
    "unknown key": ("/v1/score", _score(item_id="i1"), 422, "item_id: no such key"),
    "items a string": ("/v1/score", _score(item_ids="i1"), 422, "item_ids: "),
    "a float id": ("/v1/score", _score(item_ids=["i1", 1.5]), 422, "item_ids.1: must be a string"),
    "a boolean id": ("/v1/score", _score(user_id=True), 422, "user_id: must be a string"),
    "a null id": ("/v1/score", _score(user_id=None), 422, "user_id: must be a string"),
    "a nested id": ("/v1/score", _score(item_ids=[["i1"]]), 422, "item_ids.0: must be a string"),
    "too many items": ("/v1/score", _score(item_ids=["i1"] * 10_001), 422, "more than the 10000"),
    "too long a history": (
        "/v1/score",
        _score(history=[{"item_id": "i1", "rating": 1}] * 10_001),
        422,
        "history: 10001 entries",
    ),
    "rating outside": (
        "/v1/score",
        _score(history=[{"item_id": "i1", "rating": 6}]),
        422,
        "history.0.rating: 6.0 is not within 1 to 5",
    ),
    "rating not a number": (
        "/v1/score",
        '{"user_id": "u1", "item_ids": ["i1"], "history": [{"item_id": "i1", "rating": NaN}]}',
        422,
        "finite",
    ),
    "rating a string": (
        "/v1/score",
        _score(history=[{"item_id": "i1", "rating": "4"}]),
        422,
        "history.0.rating: ",
    ),
    "history without rating": (
        "/v1/score",
        _score(history=[{"item_id": "i1"}]),
        422,
        "history.0.rating: is required",
    ),
    "context of another model": (
        "/v1/score",
        _score(context={"device": "tv"}),
        422,
        "context: no 'device'; the model's are: none",
    ),
    "context a list": ("/v1/score", _score(context=["tv"]), 422, "context: "),
    "context without a value": (
        "/v1/score",
        _score(context={"device": None}),
        422,
        "context.device: must be a string",
    ),
    "k zero": ("/v1/rank", _rank(k=0), 422, "k: "),
    "k a float": ("/v1/rank", _rank(k=1.5), 422, "k: "),
    "k a boolean": ("/v1/rank", _rank(k=True), 422, "k: "),
    "k huge": ("/v1/rank", _rank(k=10**30), 422, "k: "),
    "k above the limit": ("/v1/rank", _rank(k=10_001), 422, "k: 10001 is more"),
    "nothing to rank": ("/v1/rank", _rank(item_ids=[]), 422, "item_ids: must not be empty"),
}
"""Name: path, body, status, part of the sentence."""
