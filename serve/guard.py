"""A bearer token before the endpoint, if the operator has set one.

The token is read once, where `lorecast serve` starts; replicas get its SHA-256, so that no state,
log or argument list of the cluster holds the token itself. Programs send `Authorization: Bearer
TOKEN`. A browser asks a person for it (HTTP Basic: any name, the token as password), for GET only.
"""

import base64
import binascii
import hashlib
import hmac
import ipaddress
import os
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from lorecast.config import ServingConfig
from lorecast.errors import ServingError
from lorecast.serve.answers import plain_answer

OPEN: Final = ("/healthz", "/readyz")
"""What a probe may ask without a token."""
_SHORTEST: Final = 16
_ASK: Final = 'Bearer realm="lorecast"'
_ASK_A_PERSON: Final = 'Basic realm="lorecast: any name, the token as password", charset="UTF-8"'


def token_digest(serving: ServingConfig) -> str | None:
    """The SHA-256 of the token in the environment; none if it is not set.

    Raises ServingError, which does not quote it, for a token that is empty, short, or not made of
    printable ASCII characters without spaces.
    """
    token = os.environ.get(serving.token_env)
    if token is None:
        return None
    if len(token) < _SHORTEST or not all("!" <= character <= "~" for character in token):
        raise ServingError(
            f"{serving.token_env} holds no usable token: set at least {_SHORTEST} printable ASCII "
            "characters without spaces (`openssl rand -hex 32` makes one), or unset it"
        )
    return hashlib.sha256(token.encode()).hexdigest()


def warning(serving: ServingConfig) -> str | None:
    """What to say to somebody who opens the endpoint to others without a token."""
    if os.environ.get(serving.token_env) is not None or _is_loopback(serving.host):
        return None
    return (
        f"warning: {serving.host} is not loopback and {serving.token_env} is not set: WHOEVER "
        f"REACHES PORT {serving.port} CAN READ HISTORIES AND TEXTS AND USE THE MODEL. Set a token "
        "there, or serve on 127.0.0.1 behind a proxy that asks for one"
    )


class Guard:
    """Answers 401 to whoever does not know the token."""

    def __init__(self, app: ASGIApp, digest: str) -> None:
        self._app = app
        self._digest = digest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or scope["path"] in OPEN or self._knows(scope):
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            raise AssertionError("the endpoint speaks HTTP alone")
        ask = [(b"www-authenticate", _ASK.encode())]
        if scope["method"] in ("GET", "HEAD"):
            ask.append((b"www-authenticate", _ASK_A_PERSON.encode()))
        error = "a token is needed: send the header Authorization: Bearer TOKEN"
        await plain_answer(send, 401, {"error": error}, ask)

    def _knows(self, scope: Scope) -> bool:
        sent = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(sent) != 1:
            return False
        scheme, _, word = sent[0].strip().partition(b" ")
        match scheme.lower():
            case b"bearer":
                token = word.strip()
            case b"basic" if scope["method"] in ("GET", "HEAD"):
                token = _password(word.strip())
            case _:
                return False
        # Digests are of one length and tell nothing of the token, so that time tells nothing, too.
        return hmac.compare_digest(hashlib.sha256(token).hexdigest(), self._digest)


def _password(word: bytes) -> bytes:
    try:
        return base64.b64decode(word, validate=True).partition(b":")[2]
    except binascii.Error:
        return b""


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
