"""Live progress of work that runs in another process: it tells a mailbox, a thread here reads.

with Relay(console) as mailbox:        # on the driver
    ...                                # pass `mailbox` along to a worker
Wire(mailbox).begin("train", 100); Wire(mailbox).advance(10, auc=0.7)      # in the worker
"""

import threading
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from lorecast.jobs.console import Console, Task

_INTERVAL_S = 0.3


class Mailbox:
    """Actor that keeps messages until they are read."""

    def __init__(self) -> None:
        self._messages: list[tuple[Any, ...]] = []

    def put(self, *message: Any) -> None:
        self._messages.append(message)

    def take(self) -> list[tuple[Any, ...]]:
        messages, self._messages = self._messages, []
        return messages


class Wire:
    """The worker's end; without a mailbox nobody listens."""

    def __init__(self, mailbox: Any | None) -> None:
        self._mailbox = mailbox

    def begin(self, description: str, total: float | None) -> None:
        """A new task starts, and the one before ends."""
        self._tell("begin", description, total)

    def advance(self, n: float = 1, **figures: float | int | str) -> None:
        """`n` more units of the task are done."""
        self._tell("advance", n, figures)

    def _tell(self, *message: Any) -> None:
        if self._mailbox is not None:
            self._mailbox.put.remote(*message)


class Relay:
    """The driver's end: shows what the mailbox holds until the block ends."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._show, daemon=True)

    def __enter__(self) -> Any:
        import ray

        self._mailbox = ray.remote(num_cpus=0)(Mailbox).remote()
        self._thread.start()
        return self._mailbox

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        import ray

        self._ended.set()
        self._thread.join()
        ray.kill(self._mailbox)

    def _show(self) -> None:
        import ray

        with ExitStack() as shown:
            task: Task | None = None
            last = False
            while not last:
                last = self._ended.wait(_INTERVAL_S)
                for kind, *content in ray.get(self._mailbox.take.remote()):
                    if kind == "begin":
                        shown.close()
                        task = shown.enter_context(self._console.progress(*content))
                    elif task is not None:
                        n, figures = content
                        task.advance(n, **figures)
