"""Volumes that are files of a share: NFS, and what else os-brick mounts.

os-brick mounts and never unmounts, since it cannot know who else uses the share. Here that is
written down, and the last volume takes the mount along.
"""

from __future__ import annotations

import os
from typing import Any

from compute.model.volume import VolumeSource
from virt.storage import command
from virt.volumes.backend import Backend
from virt.volumes.connection import Connection, unacceptable
from virt.volumes.library import Library
from virt.volumes.local import FORMATS, gone, measure
from virt.volumes.users import Users

TYPES = ("nfs", "glusterfs", "quobyte", "vzstorage", "scality")


class Share(Backend):
    """:param base: the directory below which shares are mounted."""

    def __init__(self, library: Library, users: Users, qemu_img: command.QemuImg, options: Any,
                 base: str, unmount_seconds: float = 60):
        self._library, self._users, self._qemu_img = library, users, qemu_img
        self._options, self._base, self._seconds = options, base, unmount_seconds

    def connect(self, connection: Connection) -> VolumeSource:
        name, export = str(connection.need("name")), str(connection.need("export"))
        format = str(connection.data.get("format") or "raw")
        if os.path.basename(name) != name or format not in FORMATS:
            raise unacceptable(connection.volume, f"is no raw or qcow2 file of a share: {name}")
        connector, thing = self._connector(connection), self._thing(connection)

        def work() -> str:
            with self._users.alone(thing):
                self._users.add(thing, self._user(connection))
                path = connector.connect_volume(dict(connection.data))["path"]
                self._users.add(thing, self._user(connection), os.path.dirname(path))
            return path

        path = self._library.run(f"mount {export} for volume {connection.volume}", work)
        if not os.path.exists(path):
            raise gone(connection.volume, path, "no such file on the share")
        return VolumeSource("file", path, format)

    def disconnect(self, connection: Connection) -> None:
        thing = self._thing(connection)

        def work() -> None:
            with self._users.alone(thing):
                known = self._users.of(thing)
                if known["users"] == [self._user(connection)]:
                    self._unmount(known["path"])
                self._users.remove(thing, self._user(connection))

        self._library.run(f"let go of the share of volume {connection.volume}", work)

    def size(self, connection: Connection, format: str) -> int:
        directory = self._users.of(self._thing(connection))["path"]
        path = os.path.join(directory, os.path.basename(str(connection.need("name"))))
        return measure(self._qemu_img, path, format)

    def _connector(self, connection: Connection) -> Any:
        kind, base = connection.type, os.path.join(self._base, connection.type)
        options = {f"{kind}_mount_point_base": base}
        if kind == "nfs" and self._options.nfs_mount_options:
            options["nfs_mount_options"] = self._options.nfs_mount_options
        return self._library.connector(kind, **options)

    def _unmount(self, path: str) -> None:
        if path and os.path.ismount(path):
            command.run(("umount", path), self._seconds)
            os.rmdir(path)

    def _thing(self, connection: Connection) -> str:
        return f"{connection.type} share {connection.need('export')}"

    def _user(self, connection: Connection) -> str:
        return f"{connection.guest}/{connection.volume}"
