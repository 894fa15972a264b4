"""Locks between processes and threads that a crash releases: flock(2) on a file.

Waiting polls, so that it neither blocks green threads nor outlives a request to stop.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from compute.errors import Retryable

POLL = 0.05


def try_lock(path: str, shared: bool = False) -> int | None:
    """Take the lock and return its file descriptor (closing it releases), or None if it is held.

    Each call opens the file anew, so that threads of one process exclude each other too.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        held = os.path.samestat(os.fstat(fd), os.stat(path))
    except (BlockingIOError, FileNotFoundError):
        held = False
    if held:
        return fd
    os.close(fd)  # held by another, or the file was removed by its last holder meanwhile
    return None


@contextmanager
def locked(
    path: str,
    timeout: float,
    cancel: Callable[[], None] = lambda: None,
    shared: bool = False,
) -> Iterator[None]:
    """Hold a lock, waiting ``timeout`` seconds at most; ``cancel`` stops the wait by raising.

    :raises Retryable: code ``busy``, when the time is over.
    """
    deadline = time.monotonic() + timeout
    while (fd := try_lock(path, shared)) is None:
        cancel()
        if time.monotonic() >= deadline:
            raise Retryable(
                f"The lock {path} was held by another process or operation for {timeout:g} "
                "seconds.",
                now="Nothing was changed.",
                next="It can work on another host, or here once the holder has finished "
                f"('fuser {path}' names it).",
                code="busy",
            )
        time.sleep(POLL)
    try:
        yield
    finally:
        os.close(fd)
