"""Volumes as files of one directory: ``<directory>/<uuid>``, sparse raw or qcow2.

A file gets its name when it is whole, and is never smaller than its record says.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from compute.errors import Refused, Retryable
from compute.model.guest import Image
from virt.storage import command, files, inspect

Row = dict[str, Any]
GIB = 1 << 30
FORMATS = ("raw", "qcow2")
Cancel = Callable[[], None]


class VolumeFiles:
    """The directory of the volumes.

    :param conf: the global configuration; ``[control]`` and ``[disk]`` are read.
    """

    def __init__(self, conf: Any):
        self._conf = conf
        self.directory = os.path.abspath(conf.control.volume_dir)

    @property
    def _qemu_img(self) -> command.QemuImg:
        disk = self._conf.disk
        return command.QemuImg(disk.images_cpu_time_limit, disk.images_address_space_limit,
                               disk.command_timeout)

    def path(self, uuid: str) -> str:
        """Where a volume's file is."""
        return os.path.join(self.directory, uuid)

    def check_room(self, promised: int, more: int) -> None:
        """Whether ``more`` GiB can be promised beside those that are.

        :raises Retryable: code ``disk_full``.
        """
        with files.explained(f"Looking for room in {self.directory}"):
            files.make_dirs(self.directory)
            taken = sum(entry.stat().st_blocks * 512 for entry in os.scandir(self.directory)
                        if entry.is_file(follow_symlinks=False))
            room = (files.free(self.directory) + taken) / GIB
        ratio = self._conf.control.max_over_subscription_ratio
        if promised + more > room * ratio:
            raise Retryable(
                f"There is no room for {more} GiB: {self.directory} can hold {room:.1f} GiB of "
                f"volumes, of which {promised} GiB are promised.", now="Nothing was changed.",
                next="Delete volumes that nobody needs, give the file system more room, or promise "
                "more than there is with [control] max_over_subscription_ratio.",
                code="disk_full")

    def make(self, row: Row, images: Any, source: Row | None = None,
             cancel: Cancel = lambda: None) -> None:
        """Make a volume's file, empty or from its source; quiet if it is there.

        :param source: the row of the volume to copy.
        :raises MagnetarError: what does not work; nothing of it is kept.
        """
        path, size = self.path(row["uuid"]), row["size"] * GIB
        if os.path.exists(path):
            return
        part, second = files.part_name(path), files.part_name(path + "-image")
        with files.explained(f"Making volume {row['name'] or row['uuid']}",
                             "Nothing of it is kept."):
            files.make_dirs(self.directory)
            try:
                if row["source_image"]:
                    self._take(images, row, part, second, cancel)
                elif source is not None:
                    self._convert(self.path(source["uuid"]), source["format"], part, row, cancel)
                elif row["format"] == "qcow2":
                    self._qemu_img.create_empty(part, size)
                else:
                    _create(part)
                self._grow(part, row["format"], size)
                os.chmod(part, 0o600)  # libvirt gives it to QEMU's user
                files.publish(part, path)
            finally:
                files.remove(part)
                files.remove(second)

    def _take(self, images: Any, row: Row, part: str, second: str, cancel: Cancel) -> None:
        """The contents of an image. It is looked into before anything opens it."""
        image = images.show(row["source_image"])
        images.download(image.id, second, lambda done, total: None, cancel)
        found = inspect.inspect(second, image)
        check_size(image, found.virtual_size, row["size"])
        if found.format == row["format"] == "raw":
            os.rename(second, part)
        else:
            self._qemu_img.convert(second, found.format, part, row["format"],
                                   found.virtual_size, cancel)

    def _convert(self, path: str, format: str, part: str, row: Row, cancel: Cancel) -> None:
        if format == row["format"] == "raw":
            files.copy(path, part, cancel=cancel)
        else:
            self._qemu_img.convert(path, format, part, row["format"], row["size"] * GIB, cancel)

    def _grow(self, path: str, format: str, size: int) -> None:
        if self._size(path, format) >= size:
            return
        if format == "raw":
            os.truncate(path, size)
        else:
            self._qemu_img.enlarge(path, format, size)

    def _size(self, path: str, format: str) -> int:
        """Bytes that a guest sees."""
        if format == "raw":
            return os.stat(path).st_size
        return int(self._qemu_img.info(path, format)["virtual-size"])

    def grow(self, row: Row, size: int) -> None:
        """Let a volume have ``size`` GiB; quiet if it has as many."""
        with files.explained(f"Extending volume {row['name'] or row['uuid']}"):
            self._grow(self.path(row["uuid"]), row["format"], size * GIB)
            files.sync(self.path(row["uuid"]))

    def size(self, row: Row) -> int:
        """The whole GiB that a volume's file has."""
        with files.explained(f"Measuring volume {row['name'] or row['uuid']}"):
            return self._size(self.path(row["uuid"]), row["format"]) // GIB

    def remove(self, row: Row) -> None:
        """Remove a volume's file, and what was begun of it; quiet if there is none."""
        with files.explained(f"Deleting volume {row['name'] or row['uuid']}"):
            if os.path.isdir(self.directory):
                files.remove(self.path(row["uuid"]))
                files.remove_parts(self.directory, row["uuid"])
                files.fsync_dir(self.directory)

    def connection_info(self, row: Row) -> Row:
        """What a host needs to reach a volume, in the form of Cinder's drivers."""
        common = {"serial": row["uuid"], "multiattach": row["multiattach"]}
        told = row["connection_info"]
        if told:
            data = {"volume_id": row["uuid"], **told["data"]}
            return {**told, **common, "data": data}
        return {**common, "driver_volume_type": "local", "data": {
            "volume_id": row["uuid"], "device_path": self.path(row["uuid"]),
            "format": row["format"], "access_mode": "rw", "discard": True, "encrypted": False,
            "qos_specs": None,
        }}


def check_size(image: Image, virtual_size: int, size: int) -> None:
    """Whether an image fits into a volume of ``size`` GiB.

    :raises Refused: code ``volume_too_small``.
    """
    least = max(image.min_disk, -(-virtual_size // GIB))
    if size < least:
        raise Refused(f"A volume of {size} GiB is too small for image {image.name or image.id}, "
                      f"which needs {least} GiB.", now="No volume was made.",
                      next=f"Ask for {least} GiB or more.", code="volume_too_small")


def _create(path: str) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
