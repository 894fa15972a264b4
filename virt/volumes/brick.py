"""Volumes that the host's kernel connects to, by os-brick: iSCSI, Fibre Channel, NVMe-oF and all
others that it knows. NFS and its like are :mod:`virt.volumes.share`."""

from __future__ import annotations

import os
import stat
from typing import Any

from compute.model.volume import VolumeSource
from virt.storage import command
from virt.volumes.backend import Backend
from virt.volumes.connection import Connection, unacceptable
from virt.volumes.library import Library
from virt.volumes.local import measure
from virt.volumes.users import Users

# Cinder's names of types that os-brick has under another one.
ALIASES = {"nvme": "nvmeof"}


class Brick(Backend):
    """Block devices. One connection serves all guests that share a volume."""

    def __init__(self, library: Library, users: Users, qemu_img: command.QemuImg):
        self._library, self._users, self._qemu_img = library, users, qemu_img

    def connect(self, connection: Connection) -> VolumeSource:
        protocol = ALIASES.get(connection.type, connection.type)
        connector = self._library.connector(protocol)
        thing = self._thing(connection)

        def work() -> str:
            with self._users.alone(thing):
                self._users.add(thing, connection.guest)
                path = self._path(connection, connector.connect_volume(dict(connection.data)))
                self._users.add(thing, connection.guest, path)
            return path

        path = self._library.run(f"connect volume {connection.volume}", work)
        return VolumeSource("block" if _is_block(path) else "file", path, connection.format)

    def disconnect(self, connection: Connection) -> None:
        connector = self._library.connector(ALIASES.get(connection.type, connection.type))
        thing = self._thing(connection)

        def work() -> None:
            with self._users.alone(thing):
                known = self._users.of(thing)
                if known["users"] == [connection.guest]:  # the last one
                    device = {"type": "block", "path": known["path"]} if known["path"] else None
                    connector.disconnect_volume(dict(connection.data), device)
                self._users.remove(thing, connection.guest)

        self._library.run(f"disconnect volume {connection.volume}", work)

    def size(self, connection: Connection, format: str) -> int:
        connector = self._library.connector(ALIASES.get(connection.type, connection.type))

        def work() -> int:
            try:
                found = connector.extend_volume(dict(connection.data))
            except NotImplementedError:
                found = None
            if found and format != "luks":
                return int(found)
            path = self._users.of(self._thing(connection))["path"]
            return measure(self._qemu_img, path, format) if path else 0

        return self._library.run(f"see the new size of volume {connection.volume}", work)

    def _thing(self, connection: Connection) -> str:
        return f"volume {connection.volume}"

    def _path(self, connection: Connection, device: Any) -> str:
        path = (device or {}).get("path")
        path = path.decode() if isinstance(path, bytes) else path
        if not isinstance(path, str) or not os.path.isabs(path):
            raise unacceptable(connection.volume, f"became no device of this host: {path!r}")
        return path


def _is_block(path: str) -> bool:
    try:
        return stat.S_ISBLK(os.stat(path).st_mode)
    except OSError:
        return path.startswith("/dev/")
