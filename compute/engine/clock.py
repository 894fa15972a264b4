"""Time behind a protocol, so that the simulation can own it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

FIRST_LOOK, LAST_LOOK = 0.05, 1.0  # seconds between two looks at what is waited for, growing


class Clock(Protocol):
    """Seconds since the epoch, and waiting."""

    def now(self) -> float: ...

    def wait(self, seconds: float, wake: threading.Event | None = None) -> None:
        """Let up to ``seconds`` pass, less if ``wake`` is set meanwhile."""


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        return time.time()

    def wait(self, seconds: float, wake: threading.Event | None = None) -> None:
        if wake is None:
            time.sleep(seconds)
        else:
            wake.wait(seconds)


def poll(clock: Clock, check: Callable[[], bool], deadline: float, *,
         wake: threading.Event | None = None) -> bool:
    """Ask ``check`` again and again until it is true or ``deadline`` (epoch seconds) has passed.

    Intervals double from FIRST_LOOK up to LAST_LOOK; ``wake`` ends an interval early.
    """
    interval = FIRST_LOOK
    while not check():
        left = deadline - clock.now()
        if left <= 0:
            return False
        clock.wait(min(interval, left), wake)
        if wake is not None:
            wake.clear()
        interval = min(interval * 2, LAST_LOOK)
    return True
