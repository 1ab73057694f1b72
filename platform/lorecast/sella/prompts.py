"""The wording of a dataset's prompts in tokens of one tokenizer.

    shared      beginning of every prompt, up to the first liked title
    prefix      the liked titles and what closes the list: the same for all candidates of a user
    suffix      collaborative tokens (negative numbers), the target's title, the answer's opening

A tokenizer with a chat template renders system and user turn by it. One without gets
`system \\n user \\n Answer:`, after its token for the beginning, if it puts one there.

Legend: B rows, M titles shown, R item rows, P pieces.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from jinja2 import TemplateError
from numpy.typing import NDArray

from lorecast.config import PromptConfig
from lorecast.errors import TrainingError
from lorecast.sella.methods import Switches
from lorecast.sella.pieces import Pieces

USER, ITEM, WARM = -1, -2, -3
"""Places of collaborative tokens in a prompt."""
_HOLE: Final = "LorecastUserTurn"
_NO_TITLE: Final = "(unknown)"


@dataclass(frozen=True, kw_only=True)
class Frame:
    """What stands around the user's turn, and the two answers."""

    opening: str
    closing: str
    yes: tuple[int, ...]
    no: tuple[int, ...]
    ending: str
    """After the answer."""
    note: str | None
    """What a reader should know about the answers."""

    @classmethod
    def of(cls, tokenizer: Any, system: str) -> "Frame":
        """Raises TrainingError if the tokenizer cannot tell Yes from No by their first token."""
        if tokenizer.chat_template:
            opening, closing = _rendered(tokenizer, system).split(_HOLE)
            space = ""
        else:
            opening = f"{_beginning(tokenizer)}{system}{chr(10) if system else ''}"
            closing, space = "\nAnswer:", " "
        before = encode(tokenizer, closing)
        answers = []
        for word in ("Yes", "No"):
            tokens = encode(tokenizer, f"{closing}{space}{word}")
            if tokens[: len(before)] != before or len(tokens) == len(before):
                raise TrainingError(
                    f"{tokenizer.name_or_path}: its tokenizer merges the prompt's end with "
                    f"{word!r} ({_told(tokenizer, tokens)}); take another language model"
                )
            answers.append(tuple(tokens[len(before) :]))
        yes, no = answers
        if yes[0] == no[0] or tokenizer.unk_token_id in (yes[0], no[0]):
            raise TrainingError(
                f"{tokenizer.name_or_path}: its tokenizer cannot tell 'Yes' from 'No' by their "
                f"first token ({_told(tokenizer, yes)} and {_told(tokenizer, no)}); take another "
                "language model"
            )
        note = None
        if len(yes) > 1 or len(no) > 1:
            note = (
                f"{tokenizer.name_or_path} has no token of its own for Yes or No: scored by the "
                f"first of {_told(tokenizer, yes)} and {_told(tokenizer, no)}"
            )
        ending = "." + (tokenizer.eos_token or "")
        return cls(opening=opening, closing=closing, yes=yes, no=no, ending=ending, note=note)


class Prompts:
    """All prompts that a dataset's rows can be; see the module."""

    def __init__(
        self,
        tokenizer: Any,
        titles: Sequence[str | None],
        config: PromptConfig,
        method: Switches,
        *,
        faithful: bool = False,
    ) -> None:
        """`titles` by item row from 1. Raises TrainingError if Yes and No cannot be told apart.

        `faithful`: a list that is not full begins with an empty title.
        """
        self.frame = frame = Frame.of(tokenizer, config.system)
        self.shown = config.history_titles
        self.faithful = faithful
        most = config.title_tokens

        def tokens(text: str) -> list[int]:
            return encode(tokenizer, text)

        def with_title(template: str, title: str) -> list[int]:
            text = template.replace("{title}", cut(tokenizer, title, most))
            return encode(tokenizer, text, plain=True)

        named = [title or _NO_TITLE for title in titles]
        in_list = ["" if faithful else _NO_TITLE, *named]
        before_list, after_list = config.history.split("{titles}")
        self.shared = tokens(frame.opening + before_list)
        sequences = [with_title(config.title, title) for title in in_list]
        sequences += [with_title(config.separator + config.title, title) for title in in_list]
        sequences += [with_title(config.target, title) for title in (_NO_TITLE, *named)]
        rows = len(in_list)
        self._first, self._next, self._target = 1, 1 + rows, 1 + 2 * rows
        empty = config.no_history
        if not empty.startswith(before_list):
            raise TrainingError(
                f"sella.prompt.no_history must begin as sella.prompt.history does, with "
                f"{before_list!r}: all prompts share their beginning"
            )
        self._no_history = 1 + 3 * rows
        self._after_list = self._no_history + 1
        sequences += [tokens(empty.removeprefix(before_list)), tokens(after_list)]
        around = []
        if method.id_tokens:
            around += [(config.user, USER), (config.item, ITEM)]
        if method.warm_token:
            around += [(config.warm, WARM)]
        slots = []
        for template, slot in around:
            before, after = template.split("{token}")
            slots += [*tokens(before), slot, *tokens(after)]
        sequences += [slots, tokens(frame.closing)]
        self._slots, self._closing = self._after_list + 1, self._after_list + 2
        sequences += [[*answer, *tokens(frame.ending)] for answer in (frame.yes, frame.no)]
        self._yes, self._no = self._closing + 1, self._closing + 2
        self.pieces = Pieces.of(sequences)

    def prefix(self, liked_BM: NDArray[np.integer]) -> NDArray[np.int64]:
        """Numbers of the prefix's pieces, [B, M + 1]."""
        B, M = liked_BM.shape
        shown_BM = liked_BM > 0
        item_BM = liked_BM
        if self.faithful:  # the dummy stands before the first title, if there is room
            first_B = M - shown_BM.sum(1)
            dummy = np.flatnonzero(first_B > 0), first_B[first_B > 0] - 1
            shown_BM = shown_BM.copy()
            shown_BM[dummy] = True
        is_first_BM = shown_BM & (np.cumsum(shown_BM, axis=1) == 1)
        base_BM = np.where(is_first_BM, self._first, self._next)
        piece_BP = np.zeros((B, M + 1), np.int64)
        piece_BP[:, :M] = np.where(shown_BM, base_BM + item_BM, 0)
        piece_BP[:, M] = np.where(shown_BM.any(1), self._after_list, self._no_history)
        return piece_BP

    def suffix(self, item_row_B: NDArray[np.integer]) -> NDArray[np.int64]:
        """Numbers of the suffix's pieces, [B, 3]."""
        piece_BP = np.empty((len(item_row_B), 3), np.int64)
        piece_BP[:, 0], piece_BP[:, 2] = self._slots, self._closing
        piece_BP[:, 1] = self._target + item_row_B
        return piece_BP

    def answers(self, label_B: NDArray[np.floating]) -> NDArray[np.int64]:
        """Numbers of the pieces that answer, with the turn's end: [B, 1]."""
        return np.where(label_B == 1, self._yes, self._no)[:, None]

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt there can be, its answer included."""
        length = np.diff(self.pieces.start_N)
        titles = length[self._next : self._target].max() * self.shown
        parts = (self._no_history, self._after_list, self._slots, self._closing, self._yes)
        target = length[self._target : self._no_history].max()
        return int(len(self.shared) + titles + target + length[list(parts)].sum())


def encode(tokenizer: Any, text: str, *, plain: bool = False) -> list[int]:
    """Tokens of a piece of text. `plain`: what looks like a special token is text, too."""
    if not text:
        return []
    tokens: list[int] = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=plain)
    return tokens


def cut(tokenizer: Any, title: str, most: int) -> str:
    """The title, or its first tokens if it has more than `most`."""
    tokens = encode(tokenizer, title, plain=True)
    return title if len(tokens) <= most else str(tokenizer.decode(tokens[:most]))


def _rendered(tokenizer: Any, system: str) -> str:
    """The prompt by the tokenizer's template, with a hole where the user's turn is."""
    turns = [{"role": "user", "content": _HOLE}]
    told = [{"role": "system", "content": system}, *turns] if system else turns
    try:
        text = tokenizer.apply_chat_template(told, add_generation_prompt=True, tokenize=False)
    except TemplateError:  # some know no system's turn
        turns[0]["content"] = f"{system}\n\n{_HOLE}"
        text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    return str(text)


def _beginning(tokenizer: Any) -> str:
    """The token that the tokenizer itself puts before a text, if any."""
    first = tokenizer.encode("Answer")[:1]
    return tokenizer.bos_token if first == [tokenizer.bos_token_id] else ""


def _told(tokenizer: Any, tokens: Sequence[int]) -> str:
    return " + ".join(map(repr, tokenizer.convert_ids_to_tokens(list(tokens))))
