"""Ends a process whose engine stalls, and keeps the last line that the engine logged.

A call into a native library that never returns cannot be interrupted from Python: the process has
to go. What it was doing is left in a note for whoever takes the work up.
"""

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LOGGERS = ("", "vllm")
"""The root, and those that do not pass their records on to it."""


class LastLine(logging.Handler):
    """Remembers the last line that was logged."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    @classmethod
    def listen(cls) -> "LastLine":
        """One that hears every engine's logger of this process."""
        handler = cls()
        for name in _LOGGERS:
            logging.getLogger(name).addHandler(handler)
        return handler

    def emit(self, record: logging.LogRecord) -> None:
        self.text = record.getMessage().strip().splitlines()[-1] if record.getMessage() else ""


@contextmanager
def watch(note: Path, stall_s: float | None, last_line: LastLine) -> Iterator[None]:
    """Ends this process if the block lasts longer than `stall_s`, with the reason in `note`.

    None: it may last as long as it likes.
    """
    if stall_s is None:
        yield
        return

    def end() -> None:
        said = f"its last log line: {last_line.text}" if last_line.text else "it logged nothing"
        note.write_text(f"the engine finished no batch in {stall_s:,.0f} s and was ended; {said}")
        os._exit(70)

    timer = threading.Timer(stall_s, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def ended_reason(note: Path) -> str:
    """The sentence for a user whose engine was ended."""
    return (
        f"{note.read_text()}. All finished batches are stored: run again to go on, with a smaller "
        "compute.engine_batch or a larger compute.engine_stall_s if the engine was only slow"
    )
