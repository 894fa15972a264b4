"""A broker that loses, repeats, delays and reorders casts."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.simulation.faults import Faults

BUILDS = ("build", "spawn")  # lost and late less often: without guests there is nothing to see


@dataclass(frozen=True)
class Message:
    """One cast on its way."""

    due: float
    number: int
    target: str
    what: str
    body: dict[str, Any]


class Broker:
    """Messages on their way, each due at some time; what is due is taken in any order."""

    def __init__(self, faults: Faults, now: Callable[[], float], log: Callable[[str], None]):
        self.faults, self.now, self.log = faults, now, log
        self._numbers = itertools.count(1)
        self.on_their_way: list[Message] = []

    def cast(self, target: str, what: str, body: dict[str, Any]) -> None:
        """Send a message: it may be lost, or come twice, or very late."""
        precious = what.startswith(BUILDS) and self.faults.rng.random() < 0.8
        if not precious and self.faults.strikes("lose"):
            self.log(f"broker loses {what} for {target}")
            return
        self._put(target, what, body, precious)
        if self.faults.strikes("repeat"):
            self._put(target, f"{what} (repeated)", body, precious)

    def _put(self, target: str, what: str, body: dict[str, Any], precious: bool) -> None:
        delay = self.faults.rng.uniform(0.01, 0.5)
        if not precious and self.faults.strikes("late"):
            delay = self.faults.rng.uniform(3, 45)
        message = Message(self.now() + delay, next(self._numbers), target, what,
                          copy.deepcopy(body))
        self.on_their_way.append(message)

    def take(self, message: Message) -> None:
        """The message is acknowledged: the broker forgets it."""
        self.on_their_way.remove(message)
