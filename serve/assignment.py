"""Who is in which arm: a draw from digests, the same on every replica and after every start."""

from collections.abc import Mapping
from hashlib import blake2b
from typing import Final

from lorecast.config import MAIN_ARM

_BYTES: Final = 6  # 48 bits, which a float holds exactly


def draw(salt: str, key: str) -> float:
    """A number in [0, 1), as good as random, that salt and key alone decide."""
    digest = blake2b(f"{salt}\0{key}".encode(), digest_size=_BYTES).digest()
    return int.from_bytes(digest) / (1 << 8 * _BYTES)


class Draw:
    """Users to arms: `shares` by arm, the rest is the main model's.

    Arms stand on the line from 0 to 1, the first, third … from below, the others from above. So an
    arm that grows keeps its users, and the last two grow at the main model's expense alone.
    """

    def __init__(self, salt: str, shares: Mapping[str, float]) -> None:
        self._salt = salt
        self._spans: list[tuple[float, float, str]] = []
        low, high = 0.0, 1.0
        for place, (arm, share) in enumerate(shares.items()):
            if place % 2:
                self._spans.append((high - share, high, arm))
                high -= share
            else:
                self._spans.append((low, low + share, arm))
                low += share

    def arm(self, user_id: str) -> str:
        """The user's arm."""
        drawn = draw(self._salt, user_id)
        for low, high, arm in self._spans:
            if low <= drawn < high:
                return arm
        return MAIN_ARM
