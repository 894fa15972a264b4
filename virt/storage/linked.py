"""Root disks that are no files: logical volumes of LVM and images of RBD.

In the guest's directory such a disk is a symbolic link whose target names it. The link is made
before what it names, and goes after it, so that nothing is ever without an owner, and whatever
renames or removes the directory has the disk along. Its name is new each time: a guest can have a
former disk set aside, or in quarantine, beside its own.
"""

from __future__ import annotations

import os
import uuid as uuids
from collections.abc import Callable
from typing import Any, Protocol

from compute.errors import Failed
from compute.model.guest import CachedImage, Disk
from virt.storage import command, files

MAKING = ".making"


class Backend(Protocol):
    """Where such disks are. A ``target`` is what a link says."""

    def target(self, name: str) -> str:
        """The target of a disk with this name."""

    def owns(self, target: str) -> bool:
        """Whether a target is one of this back-end's."""

    def make(self, target: str, base: CachedImage, size: int) -> None:
        """Make a disk of ``size`` bytes with an image's contents; one that is there is begun anew.
        Raises as :func:`virt.storage.command.run`."""

    def remove(self, target: str) -> None:
        """Remove a disk; quiet if there is none."""

    def copy_out(self, target: str, path: str, size: int, cancel: Callable[[], None]) -> None:
        """Copy what a disk holds to a raw file."""

    def stand_alone(self, target: str) -> None:
        """Let a disk need nothing but itself."""


class Linked:
    """The back-ends of one host, by what a link's target says."""

    def __init__(self, backends: dict[str, Backend]):
        self._backends = backends

    @classmethod
    def of(cls, conf: Any, qemu_img: command.QemuImg) -> Linked:
        from virt.storage.lvm import LVM
        from virt.storage.rbd import RBD

        return cls({"lvm": LVM(conf, qemu_img), "rbd": RBD(conf, qemu_img)})

    def create(self, kind: str, uuid: str, path: str, base: CachedImage, size: int) -> str:
        """Make a disk and the link to it at ``path``; returns the target."""
        backend, making = self._backends[kind], path + MAKING
        if os.path.islink(making):  # of an attempt that was cut off
            self.remove(os.readlink(making))
            files.remove(making)
        target = backend.target(f"{uuid}_disk.{uuids.uuid4().hex[:8]}")
        os.symlink(target, making)
        files.fsync_dir(os.path.dirname(path))
        backend.make(target, base, size)
        os.rename(making, path)
        files.fsync_dir(os.path.dirname(path))
        return target

    def release(self, directory: str) -> None:
        """Remove all disks that links in a directory name, before the directory goes."""
        for entry in sorted(os.listdir(directory)):
            path = os.path.join(directory, entry)
            if os.path.islink(path):
                self.remove(os.readlink(path))
                os.unlink(path)

    def remove(self, target: str) -> None:
        """Remove the disk that a link names; quiet if it is gone."""
        self._of(target).remove(target)

    def copy_out(self, disk: Disk, path: str, cancel: Callable[[], None]) -> None:
        self._of(disk.link).copy_out(disk.link, path, disk.size, cancel)

    def stand_alone(self, disk: Disk) -> None:
        self._of(disk.link).stand_alone(disk.link)

    def _of(self, target: str) -> Backend:
        for backend in self._backends.values():
            if backend.owns(target):
                return backend
        raise Failed(
            f"A guest's disk is at {target}, where this host makes none.",
            now="It was left as it is.",
            next="Set [libvirt] images_volume_group or images_rbd_pool to what they were when the "
            "disk was made.",
            code="disk_missing",
        )


def stays(uuid: str, disks: tuple[Disk, ...]) -> None:
    """Refuse what is only done with files. Raises Failed(code='unsupported')."""
    found = next((disk.link for disk in disks if disk.link), None)
    if found:
        raise Failed(
            f"The root disk of guest {uuid} is {found}, not a file: it can be neither resized nor "
            "moved, nor copied while the guest runs.",
            now="Nothing was changed.",
            next="Stop the guest and make an image of it, then build a guest from that.",
            code="unsupported",
        )
