"""Passwords, tokens and injected files of running operations.

They are needed to continue an operation after a restart but must be neither in the journal nor in
a log: each operation has one file, mode 0600 in a directory 0700, removed when it ends.
"""

from __future__ import annotations

import json
import os
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

from virt.storage import files


class Secrets:
    """Files ``<directory>/<operation>.<part>``."""

    def __init__(self, directory: str | os.PathLike):
        self.directory = pathlib.Path(directory)
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.directory.chmod(0o700)
        self.since = time.time_ns()

    def keep(self, operation: str, part: str, values: Mapping[str, Any]) -> None:
        """Write down secrets of an operation, if there are any."""
        if any(values.values()):
            files.write_json(os.fspath(self.directory / f"{operation}.{part}"), values)

    def load(self, operation: str, part: str) -> dict[str, Any]:
        """What was kept; empty if there is nothing."""
        try:
            return json.loads((self.directory / f"{operation}.{part}").read_bytes())
        except FileNotFoundError:
            return {}

    def forget(self, operation: str) -> None:
        """Remove what an operation kept."""
        for path in self.directory.glob(f"{operation}.*"):
            path.unlink(missing_ok=True)

    def sweep(self, active: Callable[[str], bool | None]) -> None:
        """Remove what no operation needs any more.

        :param active: whether an operation goes on; None when there is none of that id. Then it is
            only removed if an earlier process left it, since this one may be about to accept it.
        """
        for path in self.directory.iterdir():
            going_on = active(path.name.split(".", 1)[0])
            if going_on is None:
                try:
                    going_on = path.stat().st_mtime_ns >= self.since
                except FileNotFoundError:
                    continue  # requests are taken meanwhile: it has become the file it was for
            if not going_on:
                path.unlink(missing_ok=True)
