"""The line to the message broker: what is said over it has a deadline, also while nobody answers.

oslo.messaging gives up waiting for an answer in time, but not waiting for a connection: while the
broker is away it tries for ever, in several places of which only some heed ``retry``. So each call
runs on a thread of the line, and who made it goes on without it when its time is over. ``tries``
bounds for how long the library may still send what somebody has stopped waiting for.
"""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable
from typing import Any

from compute.errors import Unknown

MARGIN = 1.0  # seconds beyond a call's own deadline, so that the library's is told where it works
MAX_LOST = 64  # calls that never returned, after which no more are made
MAX_IDLE = 8  # threads that are kept for the next calls


class _Job:
    def __init__(self, func: Callable[[], Any]):
        self.func, self.done, self.given_up = func, threading.Event(), False
        self.result: Any = None
        self.error: BaseException | None = None


class Line:
    """Threads of the mode in force (green ones under eventlet), as many as there are callers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[queue.SimpleQueue] = []
        self._lost = 0

    def say(self, doing: str, seconds: float, func: Callable[[], Any]) -> Any:
        """Call ``func()``, which waits up to ``seconds`` for an answer; returns its result.

        :param doing: for the message: "reach the conductor".
        :raises Unknown: code ``broker_silent``: it did not return, as the broker does not answer.
        """
        job = _Job(func)
        with self._lock:
            if self._lost >= MAX_LOST:
                raise _silent(doing, f"{self._lost} earlier requests still wait for it")
            jobs = self._idle.pop() if self._idle else self._begin()
        jobs.put(job)
        if not job.done.wait(seconds + MARGIN) and self._give_up(job):
            raise _silent(doing, f"it did not within {seconds + MARGIN:g} s")
        if job.error is not None:
            raise job.error
        return job.result

    def _begin(self) -> queue.SimpleQueue:
        jobs: queue.SimpleQueue = queue.SimpleQueue()
        threading.Thread(target=self._work, args=(jobs,), name="broker-line", daemon=True).start()
        return jobs

    def _give_up(self, job: _Job) -> bool:
        """Stop waiting for a job; False if it ended in this very moment."""
        with self._lock:
            if job.done.is_set():
                return False
            job.given_up = True
            self._lost += 1
            return True

    def _work(self, jobs: queue.SimpleQueue) -> None:
        kept = True
        while kept:
            job = jobs.get()
            try:
                job.result = job.func()
            except BaseException as error:  # noqa: BLE001 - raised again by the caller
                job.error = error
            with self._lock:
                self._lost -= job.given_up
                job.done.set()
                kept = len(self._idle) < MAX_IDLE
                if kept:
                    self._idle.append(jobs)
            del job  # else an idle thread keeps the last answer


def tries(seconds: float) -> int:
    """For oslo.messaging's ``retry``: how often it may connect anew so that this takes about so
    many seconds; between attempts it waits for 1, 3, 5 … seconds, which add up to squares."""
    return max(1, math.isqrt(int(seconds)))


def _silent(doing: str, why: str) -> Unknown:
    return Unknown(
        f"The message broker does not answer: asked to {doing}, {why}.",
        now="Whether the request was sent is not known; guests keep running.",
        next="Look whether the broker of [DEFAULT] transport_url runs and can be reached; it is "
        "tried again all the time.",
        code="broker_silent")
