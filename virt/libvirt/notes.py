"""Notes about domains that outlive the agent's process, so that a start asks libvirt few things.

A file with one JSON line for each change, never fsynced: it is only believed during the boot of
the host in which it was written, when the kernel holds it. A line that cannot be read makes the
whole file void.
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import Any

from oslo_log import log

LOG = log.getLogger(__name__)


def boot_id() -> str:
    """What names the present boot of this host; '' where the kernel does not tell."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as handle:
            return handle.read().strip()
    except OSError:
        return ""


class Notes:
    """Values by key, kept in the file at ``path``; ``about`` is what they are valid for."""

    def __init__(self, path: str, about: str):
        self._path = path
        self._header = {"boot": boot_id(), "about": about}
        self._file: int | None = None

    def load(self) -> dict[str, Any]:
        """What was noted since the boot; starts the file anew with just that."""
        values = self._read() if self._header["boot"] else {}
        scratch = f"{self._path}.{os.getpid()}"
        try:
            with open(scratch, "w") as handle:
                handle.write(_line(self._header))
                handle.writelines(_line([key, value]) for key, value in values.items())
            os.replace(scratch, self._path)
            self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(scratch)
            LOG.warning(
                "Notes cannot be kept in %s (%s); the next start asks libvirt about each domain.",
                self._path, error.strerror,
            )  # fmt: skip
        return values

    def note(self, key: str, value: Any) -> None:
        """Note a value; None takes the key out. A file that fails is removed, not believed."""
        if self._file is None:
            return
        line = _line([key, value]).encode()
        try:
            if os.write(self._file, line) != len(line):
                raise OSError(0, "half a line was written")
        except OSError as error:
            self.close()
            with contextlib.suppress(OSError):
                os.unlink(self._path)
            LOG.warning("Notes in %s are given up: %s.", self._path, error.strerror)

    def close(self) -> None:
        """Stop noting."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _read(self) -> dict[str, Any]:
        values: dict[str, Any] = {}
        try:
            with open(self._path) as handle:
                if json.loads(handle.readline()) != self._header:
                    return {}
                for line in handle:
                    key, value = json.loads(line)
                    values[key] = value
        except (OSError, ValueError, TypeError):
            return {}
        return {key: value for key, value in values.items() if value is not None}


def _line(data: Any) -> str:
    return json.dumps(data) + "\n"
