"""Calls to libvirt that take minutes: each on a native thread and a connection of its own.

Neither the pool of :mod:`virt.libvirt.call` nor the few requests that libvirtd takes at once from
one client is held up by them. The daemon goes on with the work when this process dies.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import libvirt

from compute import concurrency

LONGEST_NAP = 0.2  # seconds between two looks whether an errand has ended


class Errand:
    """One such call, which begins at once.

    :param connect: opens the connection; both functions run on the native thread, which must not
        log: under eventlet the logging locks are green.
    :param work: what to do with the connection.

    ``error`` is what went wrong, once ``ended``.
    """

    def __init__(self, name: str, connect: Callable[[], Any], work: Callable[[Any], None]):
        self._connect, self._work = connect, work
        self.error: BaseException | None = None
        native = concurrency.native_module("threading")
        self._done = native.Event()
        native.Thread(target=self._run, daemon=True, name=f"libvirt-{name}").start()

    @property
    def ended(self) -> bool:
        """Whether it came to an end, good or bad."""
        return self._done.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait for its end; False when it had none after ``seconds``."""
        deadline, nap = time.monotonic() + seconds, 0.005
        while not self.ended:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(nap, left))
            nap = min(nap * 1.5, LONGEST_NAP)
        return True

    def _run(self) -> None:
        try:
            self._work(self._connect())
        except BaseException as error:  # noqa: BLE001 - told to whoever asks
            self.error = error
        finally:
            self._done.set()


def connector(uri: str, keepalive: tuple[int, int]) -> Callable[[], libvirt.virConnect]:
    """What opens a connection that notices a daemon which stopped answering."""

    def connect() -> libvirt.virConnect:
        handle = libvirt.open(uri)
        handle.setKeepAlive(*keepalive)
        return handle

    return connect
