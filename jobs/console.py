"""What a person or a machine sees while jobs run: stages, live progress, notes.

On a terminal, progress is one live line a task with rate, figures and time left; elsewhere a line
now and then. With `--json` every event is one JSON object a line on standard output.
"""

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from rich import box
from rich.console import Console as RichConsole
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

_PLAIN_INTERVAL_S = 10.0
_FILE_WIDTH = 400
"""Columns of a table at most where nobody's screen bounds it."""


class Task(Protocol):
    """One running piece of work."""

    def advance(self, n: float = 1, **figures: float | int | str) -> None:
        """`n` more units are done; `figures` replace those shown beside the bar."""


class Console:
    """Prints to standard output; `as_json` makes every event one JSON line."""

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json = as_json
        self._quiet = quiet
        self._rich = RichConsole(highlight=False, quiet=quiet or as_json)
        self._tables = self._rich
        if not self._rich.is_terminal:
            self._tables = RichConsole(quiet=quiet or as_json, width=_FILE_WIDTH)

    def note(self, text: str) -> None:
        """One line for the reader."""
        self._emit("note", text=text)
        self._rich.print(f"  [dim]{escape(text)}[/dim]")

    def heading(self, text: str) -> None:
        """Opens a part of the output."""
        self._rich.print(f"\n[bold]{escape(text)}[/bold]")

    def result(self, text: str, **data: Any) -> None:
        """A command's outcome: `text` for people, `data` for machines."""
        self._emit("result", **data)
        self._rich.print(escape(text), soft_wrap=True)

    def table(self, title: str, lines: Sequence[Mapping[str, str]]) -> None:
        """Lines with the same columns; columns of numbers stand flush right."""
        self._emit("table", title=title, lines=[dict(line) for line in lines])
        grid = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
        for name in lines[0] if lines else ():
            are_numbers = all(line[name][:1].isdigit() for line in lines)
            grid.add_column(name, justify="right" if are_numbers else "left")
        for line in lines:
            grid.add_row(*map(escape, line.values()))
        self._tables.print(grid)

    def stage(self, name: str, summary: str, *, seconds: float, cached: bool) -> None:
        """A stage ended."""
        self._emit("stage", stage=name, summary=summary, seconds=round(seconds, 2), cached=cached)
        mark = "[cyan]cached[/cyan]" if cached else f"[green]{seconds:5.1f} s[/green]"
        self._rich.print(f"[bold]{name:<9}[/bold] {mark:>8}  {escape(summary)}", soft_wrap=True)

    @contextmanager
    def progress(self, description: str, total: float | None) -> Iterator[Task]:
        """Live progress of one task over `total` units (none: unknown)."""
        if self.as_json or self._quiet or not self._rich.is_terminal:
            yield _PlainTask(self, description, total)
            return
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}[dim]{task.fields[figures]}[/dim]"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._rich, transient=True) as live:
            yield _LiveTask(live, description, total)

    def _emit(self, event: str, **data: Any) -> None:
        if self.as_json:
            sys.stdout.write(json.dumps({"event": event, **data}) + "\n")
            sys.stdout.flush()


class _LiveTask:
    def __init__(self, live: Progress, description: str, total: float | None) -> None:
        self._live = live
        self._started_s = time.monotonic()
        self._done = 0.0
        self._id = live.add_task(description, total=total, rate="", figures="")

    def advance(self, n: float = 1, **figures: float | int | str) -> None:
        self._done += n
        rate = self._done / max(time.monotonic() - self._started_s, 1e-3)
        self._live.update(
            self._id, advance=n, rate=f"{rate:,.0f}/s ", figures=_format_figures(figures)
        )


class _PlainTask:
    def __init__(self, console: Console, description: str, total: float | None) -> None:
        self._console = console
        self._description = description
        self._total = total
        self._done = 0.0
        self._started_s = self._shown_s = time.monotonic()

    def advance(self, n: float = 1, **figures: float | int | str) -> None:
        self._done += n
        now_s = time.monotonic()
        if now_s - self._shown_s < _PLAIN_INTERVAL_S:
            return
        self._shown_s = now_s
        rate = self._done / (now_s - self._started_s)
        of = f"/{self._total:,.0f}" if self._total else ""
        self._console.note(
            f"{self._description}: {self._done:,.0f}{of}, {rate:,.0f}/s {_format_figures(figures)}"
        )


def _format_figures(figures: dict[str, float | int | str]) -> str:
    return " ".join(
        f"{name}={value:,.4g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in figures.items()
    )
