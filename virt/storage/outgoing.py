"""What a guest's next host must know of its disks, while it runs on this one."""

from __future__ import annotations

import base64
import os
import struct
import uuid as uuids
import zlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from compute.errors import Failed
from compute.model.guest import Disk
from virt.storage import console, files, linked, making
from virt.storage.console import CONSOLE
from virt.storage.dirs import Dirs, Record
from virt.storage.firmware import KIND
from virt.storage.shared import storage_id

CARRIED = 8 * 1024 * 1024  # characters of a packed config drive that go along in a message
CARRIED_DEVICES = ("cdrom", KIND)  # small files, which libvirt copies none of
UNPACKED = 64 * 1024 * 1024  # bytes: no config drive is larger


class Outgoing:
    """Describes disks; changes nothing but the file that tells the storage's id.

    :param images: directory of the image cache.
    """

    def __init__(self, dirs: Dirs, images: str):
        self._dirs, self._images = dirs, images

    def describe(self, uuid: str, targets: Mapping[str, str] | None = None) -> dict[str, Any]:
        """What the destination must know of a guest's disks; see :class:`virt.storage.store.Store`.

        :raises Failed: code ``disk_missing``.
        """
        record = self._dirs.record(uuid)
        if record is None:
            raise Failed(
                f"Guest {uuid} has no complete disks in {self._dirs.of(uuid)}.",
                now="Nothing was changed.",
                next=f"See 'magnetar explain {uuid}' for where they may be.",
                code="disk_missing",
            )
        linked.stays(uuid, record.disks)
        named = targets if targets is not None else _targets(record.disks)
        with files.explained(f"Reading the disks of guest {uuid}"):
            return {
                "attempt": uuids.uuid4().hex,
                "storage": storage_id(self._dirs.path),
                "disks": [self._told(uuid, disk, record, named) for disk in record.disks],
                "console": self.console(uuid),
            }

    def _told(
        self, uuid: str, disk: Disk, record: Record, targets: Mapping[str, str]
    ) -> dict[str, Any]:
        try:
            found = os.stat(disk.path)
        except FileNotFoundError as error:
            raise making.missing(uuid, disk) from error
        base = record.base if disk.role == "root" else ""
        told: dict[str, Any] = {
            "role": disk.role,
            "target": KIND if disk.role == KIND else targets.get(disk.path, ""),
            "path": disk.path,
            "format": disk.format,
            "size": _virtual_size(disk),
            "device": disk.device,
            "allocated": found.st_blocks * 512,
            "backing_image": record.image_id if base else None,
            "backing_allocated": _allocated(os.path.join(self._images, base)) if base else 0,
        }
        if disk.device in CARRIED_DEVICES:
            told["content"] = _packed(disk.path)
        return told

    def console(self, uuid: str) -> str:
        """The end of the console log, packed.

        :raises Failed: code ``storage_failed``.
        """
        with files.explained(f"Reading the console log of guest {uuid}"):
            return pack(console.tail(os.path.join(self._dirs.of(uuid), CONSOLE), console.MOST))


def _targets(disks: Iterable[Disk]) -> dict[str, str]:
    """Names of a guest with virtio disks and an IDE cdrom, in the builder's order."""
    kinds = {"disk": iter("abcdefghijklmnopqrstuvwxyz"), "cdrom": iter("abcd")}
    prefix = {"disk": "vd", "cdrom": "hd"}
    return {disk.path: prefix[disk.device] + next(kinds[disk.device]) for disk in disks
            if disk.device in kinds}


def _virtual_size(disk: Disk) -> int:
    """What the guest sees, in bytes; of qcow2 from the header, which is not locked."""
    with open(disk.path, "rb") as file:
        if disk.format != "qcow2":
            return os.fstat(file.fileno()).st_size
        header = file.read(32)
    return struct.unpack(">Q", header[24:])[0] if header[:4] == b"QFI\xfb" else disk.size


def _allocated(path: str) -> int:
    with suppress(FileNotFoundError):
        return os.stat(path).st_blocks * 512
    return 0


def pack(data: bytes) -> str:
    """Bytes as text for a message."""
    return base64.b64encode(zlib.compress(data)).decode()


def _packed(path: str) -> str | None:
    """A file's contents, packed; None if they are too large for a message."""
    if os.stat(path).st_size > UNPACKED:
        return None
    with open(path, "rb") as file:
        packed = pack(file.read())
    return packed if len(packed) <= CARRIED else None


def unpack(text: str) -> bytes:
    """The bytes that :func:`pack` made text of. Raises ValueError, zlib.error."""
    opener = zlib.decompressobj()
    data = opener.decompress(base64.b64decode(text), UNPACKED)
    if not opener.eof:
        raise ValueError("it is cut off, or larger than any config drive")
    return data
