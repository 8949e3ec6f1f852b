"""Progress on standard error: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["track"]

T = TypeVar("T")

# Where there is no terminal: how often a line is written. What takes less than this is done without a word.
INTERVAL = 30.0


def track(items: Sequence[T], description: str) -> Iterator[T]:
    """Iterates over items, and tells on standard error how many are done and how long the rest may take."""
    if not sys.stderr.isatty():
        with _Lines(description, len(items)).written() as lines:
            for item in items:
                yield item
                lines.done += 1
        return
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
               TimeRemainingColumn(compact=True))  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bar:
        yield from bar.track(items, description=description)


class _Lines:
    """Plain lines, for files and logs; one comes in time however long a single item takes."""

    def __init__(self, description: str, count: int) -> None:
        self.description, self.count, self.done = description, count, 0
        self._start, self._end, self._told = time.monotonic(), threading.Event(), False

    @contextmanager
    def written(self) -> Iterator[_Lines]:
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._end.set()
            thread.join()
        if self._told:
            self._tell()

    def _run(self) -> None:
        while not self._end.wait(INTERVAL):
            self._told = True
            self._tell()

    def _tell(self) -> None:
        passed = time.monotonic() - self._start
        left = passed / self.done * (self.count - self.done) if self.done else None
        ahead = "" if left is None or self.done == self.count else f", about {_duration(left)} left"
        text = f"{self.description}: {self.done} of {self.count} in {_duration(passed)}{ahead}"
        print(text, file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
