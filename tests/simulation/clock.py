"""A clock that moves when somebody waits, and by a tick whenever somebody looks."""

from __future__ import annotations

import threading

EPOCH = 1_800_000_000.0  # virtual time begins here
TICK = 1e-5  # seconds; two looks never see the same time


class FakeClock:
    """Implements compute.engine.clock.Clock; waiting takes no time at all."""

    def __init__(self, now: float = EPOCH):
        self.time = now

    def now(self) -> float:
        self.time += TICK
        return self.time

    def wait(self, seconds: float, wake: threading.Event | None = None) -> None:
        if wake is None or not wake.is_set():
            self.time += seconds
