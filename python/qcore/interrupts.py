"""Signals: held back while files get or lose their names; an exception in the command line."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Ended", "end_on_signals", "ended", "uninterrupted"]

# What asks a program to end. Windows knows some of them.
_ASKING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]

# A second one that comes this soon, as of a key that is pressed twice, does not disturb the first one's work.
_CLEAN_UP_SECONDS = 5.0


class Ended(SystemExit):
    """A signal asked the program to end. Its code is what a shell reports for it: 128 and its number."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.name = signal.Signals(number).name


_came: list[Ended] = []


def ended() -> Ended | None:
    """The exception of the last signal, if one came: native code may make another error of it on the way."""
    return _came[-1] if _came else None


def end_on_signals() -> None:
    """From here on, signals that ask the program to end raise `Ended` in its main thread, so that whatever is
    half written is cleaned up. Those that are ignored (as nohup does) stay so."""
    last = -math.inf

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal last
        if (now := time.monotonic()) > last + _CLEAN_UP_SECONDS:
            last = now
            _came.append(Ended(number))
            raise _came[-1]

    for number in _ASKING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, end)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """While it lasts, these signals wait, whichever thread they reach. Only the main thread can make them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in _ASKING}
    changed = [n for n, handler in before.items() if handler not in (None, signal.SIG_IGN)]
    for number in changed:
        signal.signal(number, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, before[number])
        for number in came[:1]:
            signal.raise_signal(number)
