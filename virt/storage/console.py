"""A guest's console log: what virtlogd wrote here, and what was written on its hosts before.

virtlogd appends to ``console.log`` and rotates it to ``.0``, ``.1`` and so on. What a guest that
moved here while it ran has written elsewhere is in a file of its own, which comes before all of
these and which nobody else opens: so it can be replaced while virtlogd writes.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator

CONSOLE = "console.log"
BEFORE = ".before"
# All that a directory can hold of a log. virtlogd keeps three rotated files, unless told otherwise.
FILES = (CONSOLE, CONSOLE + BEFORE, *(f"{CONSOLE}.{number}" for number in range(3)))
MOST = 256 * 1024  # bytes of the log that go along to another host


def tail(path: str, size: int) -> bytes:
    """The last ``size`` bytes of the log at ``path``. Raises OSError."""
    found = b""
    for name in _newest_first(path):
        with contextlib.suppress(FileNotFoundError), open(name, "rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - (size - len(found))))
            found = log.read(size - len(found)) + found
        if len(found) >= size:
            break
    return found


def _newest_first(path: str) -> Iterator[str]:
    yield path
    rotated = (f"{path}.{number}" for number in itertools.count())
    yield from itertools.takewhile(os.path.exists, rotated)
    yield path + BEFORE


def prepare(path: str) -> None:
    """Make the log before virtlogd does, so that it belongs to the agent's user and is readable;
    virtlogd only appends. Raises OSError."""
    os.makedirs(os.path.dirname(path), mode=0o711, exist_ok=True)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o640))
