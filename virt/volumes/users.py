"""Which guests of this host use what was connected for them, in one small file for each thing.

Guests can share a volume, and volumes a mounted directory; only the last one may take it away.
A user is written down before anything is connected, so what no file tells of was not connected by
us, and is left alone.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from compute.errors import Unknown
from virt.storage import files


class Users:
    """The files below one directory."""

    def __init__(self, directory: str):
        self._directory = directory
        self._locks: dict[str, threading.Lock] = {}
        self._guard = threading.Lock()

    @contextmanager
    def alone(self, thing: str) -> Iterator[None]:
        """Connect or disconnect one thing at a time."""
        with self._guard:
            lock = self._locks.setdefault(thing, threading.Lock())
        with lock:
            yield

    def of(self, thing: str) -> dict[str, Any]:
        """``users`` and ``path`` of a thing; no users if nobody uses it. Raises Unknown."""
        try:
            return files.read_json(self._file(thing))
        except FileNotFoundError:
            return {"thing": thing, "users": [], "path": ""}
        except (OSError, ValueError) as error:
            raise Unknown(
                f"{self._file(thing)} cannot be read ({error}).",
                now=f"It is not known which guests use {thing}; it was left as it is.",
                next="Restore the file, or remove it if no guest on this host uses the volume.",
                code="volume_users_unknown",
            ) from error

    def add(self, thing: str, user: str, path: str = "") -> None:
        """Write down a user, and where the thing is once that is known."""
        found = self.of(thing)
        users = sorted({*found["users"], user})
        self._write({**found, "users": users, "path": path or found["path"]})

    def remove(self, thing: str, user: str) -> None:
        """Strike a user out; the last one takes the file along."""
        found = self.of(thing)
        users = [each for each in found["users"] if each != user]
        if users:
            self._write({**found, "users": users})
        else:
            files.remove(self._file(thing))

    def _write(self, found: dict[str, Any]) -> None:
        with files.explained(f"Writing down who uses {found['thing']}"):
            files.make_dirs(self._directory, 0o700)
            files.write_json(self._file(found["thing"]), found)

    def _file(self, thing: str) -> str:
        name = hashlib.sha256(thing.encode()).hexdigest()[:32]
        return os.path.join(self._directory, f"{name}.json")
