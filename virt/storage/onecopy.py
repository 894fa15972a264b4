"""A copy of a guest's root disk, in the guest's own directory, for an image.

One name while it is made and another once it is whole, so that what has the final name is whole,
and nothing of it is left when the guest's directory goes.
"""

from __future__ import annotations

import os
from dataclasses import replace

from compute.errors import Failed
from compute.model.guest import Disk
from virt.driver import Cancel, Progress
from virt.storage import command, files
from virt.storage.dirs import Dirs, backing_file
from virt.storage.linked import Linked

MAKING, WHOLE = "disk.copying", "disk.copy"
FORMATS = ("raw", "qcow2")  # of copies that were given one: their names end with it


class OneCopy:
    """Copies of root disks: the files. What copies a disk in use is the hypervisor."""

    def __init__(self, dirs: Dirs, qemu_img: command.QemuImg, linked: Linked):
        self._dirs, self._qemu_img, self._linked = dirs, qemu_img, linked

    def root(self, uuid: str) -> Disk:
        """The root disk. Raises Failed(code='disks_missing')."""
        found = next((disk for disk in self._dirs.disks(uuid) if disk.role == "root"), None)
        if found is None:
            raise Failed(
                f"Guest {uuid} has no root disk on this host.",
                now="Nothing was copied.",
                next=f"See 'magnetar explain {uuid}' for where it may be.",
                code="disks_missing",
            )
        return found

    def begin(self, uuid: str) -> tuple[Disk, str]:
        """Make way for a new copy; returns the disk and the path to copy it to.

        :raises Retryable: code ``disk_full`` when there is certainly no room.
        """
        root = self.root(uuid)
        self.remove(uuid)
        with files.explained(f"Looking for room to copy the disk of guest {uuid}"):
            need = root.size if root.link else os.stat(root.path).st_blocks * 512
            free = files.free(self._dirs.of(uuid))
        if need > free:
            raise files.disk_full(
                f"Copying the disk of guest {uuid} takes {need} bytes at least, and "
                f"{self._dirs.of(uuid)} has room for {free}.",
                "The guest was not touched.",
            )
        return root, self._path(uuid, MAKING)

    def finish(self, uuid: str) -> None:
        """Let the copy that was made be whole."""
        with files.explained(f"Keeping the copy of the disk of guest {uuid}"):
            files.publish(self._path(uuid, MAKING), self._path(uuid, WHOLE))

    def make(self, uuid: str, progress: Progress, cancel: Cancel) -> None:
        """Copy a disk that nothing writes to. Raises Retryable(code='disk_full')."""
        root, path = self.begin(uuid)
        with files.explained(f"Copying the disk of guest {uuid}", "The disk is as it was."):
            if root.link:
                self._linked.copy_out(root, path, cancel)
            elif root.format == "raw":
                files.copy(root.path, path, progress, cancel)
            else:
                self._qemu_img.flatten(root.path, root.format, path, root.size, cancel)
        self.finish(uuid)

    def whole(self, uuid: str) -> Disk | None:
        """The copy, once it is whole."""
        root = self.root(uuid)
        for format_ in FORMATS:
            if os.path.exists(path := self._path(uuid, f"{WHOLE}.{format_}")):
                return replace(root, path=path, format=format_, link="")
        path = self._path(uuid, WHOLE)
        return replace(root, path=path, link="") if os.path.exists(path) else None

    def shape(self, uuid: str, format_: str, compress: bool, cancel: Cancel) -> None:
        """Give the copy another format. What has that format's name is whole."""
        target = self._path(uuid, f"{WHOLE}.{format_}")
        copy = self.whole(uuid)
        if copy is None or copy.path == target:
            return
        with files.explained(f"Converting the copy of the disk of guest {uuid}",
                             "The copy is as it was."):
            part = self._path(uuid, MAKING)
            files.remove(part)
            self._qemu_img.reshape(copy.path, copy.format, part, format_, compress, copy.size,
                                   cancel)
            files.publish(part, target)
            files.remove(copy.path)

    def remove(self, uuid: str) -> None:
        """Remove all of it. Quiet if there is nothing."""
        with files.explained(f"Removing the copy of the disk of guest {uuid}"):
            for name in (MAKING, WHOLE, *(f"{WHOLE}.{each}" for each in FORMATS)):
                files.remove(self._path(uuid, name))

    def detach_base(self, uuid: str) -> None:
        """Let the root disk stand by itself, in place: what it has of its base is written into it
        before its header forgets the base. Raises Retryable(code='disk_full')."""
        record = self._dirs.record(uuid)
        if record is None:
            return
        root = self.root(uuid)
        if root.link:
            self._linked.stand_alone(root)
        if not record.base:
            return
        with files.explained(f"Writing the base of the disk of guest {uuid} into it"):
            if root.format == "qcow2" and backing_file(root.path):
                self._qemu_img.absorb(root.path, root.size)
                files.sync(root.path)
            self._dirs.write(uuid, replace(record, image_id="", base=""))

    def _path(self, uuid: str, name: str) -> str:
        return os.path.join(self._dirs.of(uuid), name)
