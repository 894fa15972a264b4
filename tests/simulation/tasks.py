"""What goes on at the same time, on one thread: each piece of work is a greenlet that gives way
when it waits, and is resumed when the simulation picks it."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import greenlet

from tests.simulation.clock import FakeClock


class Death(BaseException):
    """The process of an agent ends here; nothing in the product may catch it."""

    def __init__(self, owner: str, life: int = 0):
        super().__init__(f"{owner}, life {life}")
        self.owner, self.life = owner, life


@dataclass(eq=False)
class Task:
    """One piece of work. It goes on at ``due``, or as soon as ``wake`` is set, or when ``turns``
    others have had their turn."""

    owner: str
    number: int
    due: float
    wake: threading.Event | None = None
    turns: int | None = None
    ended: threading.Event = field(default_factory=threading.Event)
    death: Death | None = None
    work: greenlet.greenlet | None = None


class Tasks:
    """All tasks of a simulation."""

    def __init__(self, clock: FakeClock):
        self.clock = clock
        self.waiting: list[Task] = []
        self.current: Task | None = None
        self._numbers = itertools.count()
        self._turn = 0

    def add(self, owner: str, work: Callable[[], Any]) -> Task:
        """Something to begin now."""
        task = Task(owner, next(self._numbers), self.clock.time)

        def body() -> None:
            try:
                work()
            except Death as death:
                task.death = death

        task.work = greenlet.greenlet(body)
        self.waiting.append(task)
        return task

    def due(self, task: Task) -> float:
        """When a task may go on."""
        soon = (task.wake is not None and task.wake.is_set()) or \
            (task.turns is not None and self._turn >= task.turns)
        return min(task.due, self.clock.time) if soon else task.due

    def resume(self, task: Task) -> None:
        """Let a task go on until it waits or ends; raises what it raises, but its death."""
        self._turn += 1
        self._switch(task)

    def _switch(self, task: Task, *thrown: BaseException) -> None:
        assert self.current is None and task.work is not None
        self.current, task.work.parent = task, greenlet.getcurrent()
        try:
            if not thrown:
                task.work.switch()
            elif task.work:  # one that never began has nothing to unwind
                task.work.throw(*thrown)
        finally:
            self.current = None
            if thrown or task.work.dead:
                task.ended.set()
                self.waiting.remove(task)

    def wait(self, until: float, wake: threading.Event | None = None,
             turns: int | None = None) -> None:
        """The current task gives way."""
        task = self.current
        if task is None or task.work is None:
            raise AssertionError("nothing goes on that could wait")
        task.due, task.wake = until, wake
        task.turns = None if turns is None else self._turn + turns
        task.work.parent.switch()

    def kill(self, owner: str) -> None:
        """All tasks of a process end where they are."""
        for task in [t for t in self.waiting if t.owner == owner]:
            self._switch(task, Death(owner))
