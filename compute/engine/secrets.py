"""Passwords, tokens and injected files of running operations.

They are needed to continue an operation after a restart but must be neither in the journal nor in
a log: each operation has one file, mode 0600 in a directory 0700, removed when it ends.
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from virt.storage import files


class Secrets:
    """Files ``<directory>/<operation>.<part>``."""

    def __init__(self, directory: str | os.PathLike):
        self.directory = pathlib.Path(directory)
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.directory.chmod(0o700)

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

    def sweep(self, active: Iterable[str]) -> None:
        """Remove what belongs to no active operation."""
        keep = set(active)
        for path in self.directory.iterdir():
            if path.name.split(".", 1)[0] not in keep:
                path.unlink(missing_ok=True)
