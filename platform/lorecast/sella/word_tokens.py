"""A stand-in for a tokenizer that is not at hand: it counts tokens about as large ones do."""

import re
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

_TOKEN: Final = re.compile(r"<\|\w+\|>| ?[^\W\d_]{1,6}|\d| ?(?:[^\w\s]|_)+|\s")


class WordTokens:
    """Splits a text, and renders turns as ChatML; the part of a tokenizer that `Prompts` uses."""

    about: ClassVar = "estimated as words of up to six letters, digits and runs of punctuation"
    chat_template = "ChatML"
    bos_token_id = eos_token = unk_token_id = None

    def __init__(self, name_or_path: str) -> None:
        self.name_or_path = name_or_path
        self._numbers: dict[str, int] = {}

    def encode(self, text: str, **_special: bool) -> list[int]:
        """Numbers of the text's parts."""
        return [self._numbers.setdefault(p, len(self._numbers)) for p in _TOKEN.findall(text)]

    def decode(self, tokens: Sequence[int]) -> str:
        """The parts put together again."""
        return "".join(self.convert_ids_to_tokens(tokens))

    def convert_ids_to_tokens(self, tokens: Sequence[int]) -> list[str]:
        """Parts by number."""
        parts = list(self._numbers)
        return [parts[token] for token in tokens]

    def apply_chat_template(
        self, turns: Sequence[Mapping[str, str]], *, add_generation_prompt: bool, tokenize: bool
    ) -> str:
        """The turns as text."""
        assert add_generation_prompt
        assert not tokenize
        told = "".join(f"<|im_start|>{t['role']}\n{t['content']}<|im_end|>\n" for t in turns)
        return f"{told}<|im_start|>assistant\n"
