"""Volumes behind an NBD server, to which QEMU connects by itself.

``data``: ``hosts`` and ``ports`` (one of each) or ``host`` and ``port``, and ``export``, the name
of what the server exports ('' for its only one).
"""

from __future__ import annotations

import json

from compute.model.volume import VolumeSource
from virt.storage import command
from virt.volumes.backend import Backend
from virt.volumes.connection import Connection, addresses, portal

PORT = 10809


class NBD(Backend):
    """The connection lives and dies with the guest's QEMU, so nothing is ever left on the host."""

    discards = True

    def __init__(self, qemu_img: command.QemuImg):
        self._qemu_img = qemu_img

    def connect(self, connection: Connection) -> VolumeSource:
        data = connection.data
        if data.get("hosts"):
            hosts = addresses(connection, PORT)[:1]
        else:
            host, port = str(connection.need("host")).strip("[]"), data.get("port") or PORT
            hosts = (portal(connection.volume, f"[{host}]:{port}", PORT),)
        return VolumeSource("network", str(data.get("export") or ""), protocol="nbd", hosts=hosts)

    def size(self, connection: Connection, format: str) -> int:
        source = self.connect(connection)
        host, port = source.hosts[0]
        node = {"driver": "nbd", "export": source.path,
                "server": {"type": "inet", "host": host, "port": str(port)}}
        found = self._qemu_img.info(f"json:{json.dumps(node)}", format)
        return int(found["virtual-size"])
