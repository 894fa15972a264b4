"""Several agents on one thread and on virtual time: each piece of work is a greenlet.

What waits gives way to the others; time moves when all wait. An agent that is killed is never
resumed: nothing of it runs any more, no ``finally`` and no ``except``, as after SIGKILL.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import greenlet

from compute.errors import Unknown
from tests.simulation.clock import FakeClock


@dataclass(eq=False)
class Task:
    """Work of one agent, in one of its lives."""

    owner: str
    number: int
    due: float
    work: greenlet.greenlet
    wake: threading.Event | None = None
    ended: threading.Event = field(default_factory=threading.Event)


class Hub:
    """Runs tasks one at a time, whoever is due first."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.tasks: list[Task] = []
        self.buried: list[Task] = []  # kept, since a greenlet that is forgotten would unwind
        self.current: Task | None = None
        self.lives: dict[str, int] = {}
        self._numbers = itertools.count()
        self._main = greenlet.getcurrent()

    # -- tasks --------------------------------------------------------------------------------
    def spawn(self, owner: str, work: Callable[[], Any], delay: float = 0) -> Task:
        """Begin a task of an agent."""
        task = Task(owner, next(self._numbers), self.clock.time + delay,
                    greenlet.greenlet(work, self._main))
        self.tasks.append(task)
        return task

    def step(self) -> None:
        """Let the next task go on until it waits or ends; raises what it raises."""
        now = self.clock.time
        task = min(self.tasks, key=lambda t: (self._due(t, now), t.number))
        self.clock.time = max(now, self._due(task, now))
        self.current = task
        try:
            task.work.switch()
        finally:
            self.current = None
            if task.work.dead:
                self._end(task)

    def _due(self, task: Task, now: float) -> float:
        return min(task.due, now) if task.wake is not None and task.wake.is_set() else task.due

    def _end(self, task: Task) -> None:
        task.ended.set()
        if task in self.tasks:
            self.tasks.remove(task)

    def sleep(self, seconds: float, wake: threading.Event | None = None) -> None:
        """The current task waits; without one, time passes."""
        if wake is not None and wake.is_set():
            return
        if self.current is None:
            self.clock.time += seconds
            return
        task = self.current
        task.due, task.wake = self.clock.time + max(seconds, 0), wake
        task.number = next(self._numbers)
        self._main.switch()

    # -- agents -------------------------------------------------------------------------------
    def born(self, owner: str) -> None:
        """A process of an agent begins."""
        self.lives[owner] = self.lives.get(owner, 0) + 1

    def kill(self, owner: str) -> None:
        """The process of an agent ends; when it is the one that runs now, this never returns."""
        self.lives[owner] = self.lives.get(owner, 0) + 1
        mine = [task for task in self.tasks if task.owner == owner]
        self.buried += mine
        self.tasks = [task for task in self.tasks if task.owner != owner]
        if self.current in mine:
            self._main.switch()

    def carry(self, owner: str, work: Callable[[], Any], seconds: float) -> Any:
        """Let another agent do something, and wait for its answer.

        :param seconds: after which it is noticed that the other agent died.
        :raises Unknown: it did.
        """
        life, answer = self.lives.get(owner), {}

        def serve() -> None:
            try:
                answer["result"] = work()
            except Exception as error:  # noqa: BLE001 - raised again where it was asked for
                answer["error"] = error

        task = self.spawn(owner, serve)
        while not task.ended.is_set():
            if self.current is None:
                self.step()
                continue
            self.sleep(seconds, task.ended)
            if not task.ended.is_set() and self.lives.get(owner) != life:
                raise Unknown(f"No answer came from {owner}.", code="rpc_timeout")
        if "error" in answer:
            raise answer["error"]
        return answer["result"]


class HubClock:
    """Implements compute.engine.clock.Clock on a hub's time."""

    def __init__(self, hub: Hub):
        self.hub = hub

    def now(self) -> float:
        return self.hub.clock.now()

    def wait(self, seconds: float, wake: threading.Event | None = None) -> None:
        self.hub.sleep(seconds, wake)
