"""Answers of the layers around the application, which speak ASGI themselves."""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic_core import to_json
from starlette.types import Send

Headers = Iterable[tuple[bytes, bytes]]


async def plain_answer(
    send: Send, status: int, content: Mapping[str, Any] | bytes, headers: Headers = ()
) -> None:
    """Sends a whole answer: JSON of a mapping, or bytes whose type `headers` say."""
    is_json = not isinstance(content, bytes)
    body = content if isinstance(content, bytes) else to_json(content)
    said = [*headers, (b"content-length", str(len(body)).encode())]
    if is_json:
        said.append((b"content-type", b"application/json"))
    await send({"type": "http.response.start", "status": status, "headers": said})
    await send({"type": "http.response.body", "body": body})
