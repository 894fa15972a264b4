"""Volumes that are files or block devices of this host: the embedded volume service's."""

from __future__ import annotations

import os
import stat

from compute.errors import Failed
from compute.model.volume import VolumeSource
from virt.storage import command
from virt.volumes.backend import Backend
from virt.volumes.connection import Connection, unacceptable

FORMATS = ("raw", "qcow2")


class Local(Backend):
    """Nothing has to be connected, only to be there."""

    discards = True

    def __init__(self, qemu_img: command.QemuImg):
        self._qemu_img = qemu_img

    def connect(self, connection: Connection) -> VolumeSource:
        path = str(connection.need("device_path"))
        format = connection.data.get("format") or "raw"
        if not os.path.isabs(path) or format not in FORMATS:
            raise unacceptable(connection.volume, f"is no raw or qcow2 file: {path} ({format})")
        try:
            mode = os.stat(path).st_mode
        except OSError as error:
            raise gone(connection.volume, path, error.strerror or str(error)) from error
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            raise unacceptable(connection.volume, f"is neither file nor block device: {path}")
        return VolumeSource("block" if stat.S_ISBLK(mode) else "file", path, format)

    def size(self, connection: Connection, format: str) -> int:
        source = self.connect(connection)
        return measure(self._qemu_img, source.path, format)



def gone(volume: str, path: str, why: str) -> Failed:
    """The error for a volume whose file or device cannot be opened."""
    return Failed(
        f"Volume {volume} is not on this host: {path} ({why}).",
        now="The volume was not connected.",
        next="See whether the directory of volumes is the same on all hosts, and mounted here.",
        code="volume_missing",
    )


def measure(qemu_img: command.QemuImg, path: str, format: str) -> int:
    """Bytes that a guest sees of a file or block device."""
    if format != "raw":
        return int(qemu_img.info(path, format)["virtual-size"])
    with open(path, "rb") as file:
        return file.seek(0, os.SEEK_END)
