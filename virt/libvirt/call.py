"""The one way to call libvirt: a bounded pool of native threads, a deadline, figures.

libvirt blocks in C, where neither green threads nor cancellation reach it. A call that does not
return in time is given up: its thread is replaced, and the caller gets Unknown.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import libvirt

from compute import concurrency
from compute.errors import Unknown
from virt.libvirt.errors import translate

BUCKETS = (0.001, 0.01, 0.1, 1.0, 10.0)  # seconds
MAX_GIVEN_UP = 32


@dataclass
class Figures:
    """What calls of one name cost. ``buckets`` counts durations below each of BUCKETS, the last
    one all others; ``errors`` includes ``timeouts``."""

    calls: int = 0
    errors: int = 0
    timeouts: int = 0
    seconds: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))


class _Job:
    """One call on its way through the pool."""

    __slots__ = ("args", "done", "error", "func", "given_up", "result", "started")

    def __init__(self, func: Callable[..., Any], args: tuple, done: Any):
        self.func, self.args, self.done = func, args, done
        self.result: Any = None
        self.error: BaseException | None = None
        self.started = self.given_up = False


class Calls:
    """The pool. ``size`` threads at most work at once; each call ends within its deadline.

    The threads are native in both concurrency modes and never log: under eventlet the logging
    locks are green.
    """

    def __init__(self, size: int = 8, timeout: float = 30.0):
        self.timeout = timeout
        self.figures: dict[str, Figures] = {}
        self._size = size
        self._native = concurrency.native_module("threading")
        self._jobs = concurrency.native_module("queue").SimpleQueue()
        self._pool_lock = self._native.Lock()  # held for moments only, also by native threads
        self._figures_lock = threading.Lock()
        self._threads = self._busy = self._queued = self._given_up = 0
        libvirt.registerErrorHandler(_quiet, None)

    def run(
        self, name: str, func: Callable[..., Any], *args: Any, timeout: float | None = None
    ) -> Any:
        """Call ``func(*args)`` on a native thread and return its result.

        :param name: a verb phrase with underscores, ``start_domain``; names the figures too.
        :param timeout: seconds, the pool's default if None.
        :raises Unknown: when it did not return in time, or the connection was lost.
        :raises MagnetarError: what :mod:`virt.libvirt.errors` makes of libvirt's error.
        """
        limit = self.timeout if timeout is None else timeout
        job = _Job(func, args, self._native.Event())
        began = time.monotonic()
        self._submit(name, job)
        finished = concurrency.native(job.done.wait, limit)
        if not finished:
            finished = not self._give_up(job)
        self._count(name, time.monotonic() - began, finished, job.error)
        if not finished:
            raise Unknown(
                f"libvirt did not {name.replace('_', ' ')} within {limit:g} s.",
                now="Whether it was done is not known; guests keep running.",
                next="It is looked at again; if this repeats, see the host's libvirtd log.",
                code="libvirt_timeout",
            )
        if isinstance(job.error, libvirt.libvirtError):
            raise translate(job.error, name.replace("_", " ")) from job.error
        if job.error is not None:
            raise job.error
        return job.result

    def snapshot(self) -> dict[str, Figures]:
        """The figures so far, by name of call."""
        with self._figures_lock:
            return {
                name: Figures(f.calls, f.errors, f.timeouts, f.seconds, list(f.buckets))
                for name, f in self.figures.items()
            }

    def total(self) -> int:
        """How many calls were made in all."""
        with self._figures_lock:
            return sum(f.calls for f in self.figures.values())

    def close(self) -> None:
        """Let the threads end once they are idle; further calls start new ones."""
        with self._pool_lock:
            for _ in range(self._threads):
                self._queued += 1
                self._jobs.put(None)

    def _submit(self, name: str, job: _Job) -> None:
        with self._pool_lock:
            if self._given_up >= MAX_GIVEN_UP:
                raise Unknown(
                    f"libvirt was not asked to {name.replace('_', ' ')}: "
                    f"{self._given_up} earlier calls never returned.",
                    now="Guests keep running; nothing can be asked of libvirt.",
                    next="Restart libvirtd on the host; the calls return then.",
                    code="libvirt_timeout",
                )
            self._queued += 1
            waiting = self._threads - self._busy
            if self._queued > waiting and self._threads < self._size:
                self._threads += 1
                self._native.Thread(target=self._work, daemon=True, name="libvirt-call").start()
        self._jobs.put(job)

    def _give_up(self, job: _Job) -> bool:
        """Abandon a job; False if it finished in this very moment."""
        with self._pool_lock:
            if job.done.is_set():
                return False
            job.given_up = True
            if job.started:
                self._given_up += 1
                self._busy -= 1  # its place is free for a new thread
                self._threads -= 1
            return True

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            with self._pool_lock:
                self._queued -= 1
                if job is None:
                    self._threads -= 1
                    return
                self._busy += 1
                job.started = not job.given_up
            if job.started:
                try:
                    job.result = job.func(*job.args)
                except BaseException as error:  # noqa: BLE001 - raised again by the caller
                    job.error = error
            with self._pool_lock:
                job.done.set()
                if job.started and job.given_up:
                    self._given_up -= 1
                    return
                self._busy -= 1
            del job  # else an idle thread keeps the last call's handles open

    def _count(
        self, name: str, took: float, finished: bool, error: BaseException | None
    ) -> None:
        with self._figures_lock:
            figures = self.figures.setdefault(name, Figures())
            figures.calls += 1
            figures.seconds += took
            figures.errors += not finished or error is not None
            figures.timeouts += not finished
            index = sum(took > bound for bound in BUCKETS)
            figures.buckets[index] += 1


def _quiet(context: object, error: object) -> None:
    """Keep libvirt from printing errors; they are raised."""
