"""Where disks are copied from: a directory of this machine, or of another host.

The other host's is read through the hypervisor, which the driver knows and storage does not: it
hands over an :data:`Opener`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol

from compute import concurrency
from compute.errors import Failed
from virt.storage import files

SMALL = 1024 * 1024  # bytes; no record is larger


class Source(Protocol):
    """A directory to copy from. All methods raise Retryable when the other end does not answer,
    Failed(code='disk_missing') when the directory is not there."""

    where: str  # for people

    def size(self, name: str) -> tuple[int, int] | None:
        """Length and allocated bytes of a file; None if there is no such file."""

    def read(self, name: str) -> bytes | None:
        """The first MiB of a file, None if there is no such file."""

    def step(self, name: str, target: int, position: int) -> int:
        """Copy some MiB of a file from ``position`` on to the open file ``target``, at the same
        place; returns where it got. Holes are passed over: the target is empty there."""

    def images(self) -> Source:
        """The image cache beside this directory; closed with this one."""

    def close(self) -> None:
        """Let go of it. Never raises."""


# (URI of the hypervisor, uuid of the guest, name of the directory, instances_path to fall back
# on) -> Source. Raises Retryable(code='source_unreachable').
Opener = Callable[[str, str, str, str], Source]


class LocalSource:
    """A directory of this machine, or of storage that both hosts share."""

    def __init__(self, path: str, images: str):
        self.where, self._images = path, images
        self._open: tuple[str, int] | None = None

    def size(self, name: str) -> tuple[int, int] | None:
        try:
            found = os.stat(self._path(name))
        except FileNotFoundError:
            return None
        return found.st_size, found.st_blocks * 512

    def read(self, name: str) -> bytes | None:
        try:
            with open(self._path(name), "rb") as file:
                return file.read(SMALL)
        except FileNotFoundError:
            return None

    def step(self, name: str, target: int, position: int) -> int:
        if self._open is None or self._open[0] != name:
            self.close()
            try:
                self._open = (name, os.open(self._path(name), os.O_RDONLY))
            except FileNotFoundError as error:
                raise vanished(f"{self.where}/{name}") from error
        handle = self._open[1]
        size = os.fstat(handle).st_size
        return concurrency.native(files.copy_chunk, handle, target, position, size)

    def images(self) -> Source:
        return LocalSource(self._images, self._images)

    def close(self) -> None:
        if self._open is not None:
            os.close(self._open[1])
            self._open = None

    def _path(self, name: str) -> str:
        return os.path.join(self.where, os.path.basename(name))


def vanished(what: str) -> Failed:
    """The error for something that should be at the source and is not, code ``disk_missing``."""
    return Failed(
        f"Disks could not be copied: {what} is not there.",
        now="The guest has no complete copy of its disks here.",
        next="Look on the guest's former host where its disks are; 'magnetar explain' tells what "
        "was done there.",
        code="disk_missing",
    )
