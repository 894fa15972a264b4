"""iSCSI by QEMU's own initiator (libiscsi): no kernel module, no daemon, no session on the host.

A session belongs to the guest's QEMU and ends with it, however that ends. There is one path only;
hosts that want several use the kernel's initiator (:mod:`virt.volumes.brick`).
"""

from __future__ import annotations

from compute.model.volume import VolumeSource
from virt.volumes.backend import Backend
from virt.volumes.connection import Connection, portal, unacceptable
from virt.volumes.keys import Keys

PORT = 3260


class ISCSI(Backend):
    """:param initiator: the name by which this host logs in."""

    def __init__(self, keys: Keys, initiator: str):
        self._keys, self._initiator = keys, initiator

    def connect(self, connection: Connection) -> VolumeSource:
        data = connection.data
        iqn, lun = str(connection.need("target_iqn")), connection.need("target_lun")
        host = portal(connection.volume, connection.need("target_portal"), PORT)
        user = secret = ""
        method = data.get("auth_method") or ""
        if method:
            if method.upper() != "CHAP":
                raise unacceptable(connection.volume, f"asks for {method}, not for CHAP")
            user = str(connection.need("auth_username"))
            secret = self._keys.keep(connection, "chap", data.get("auth_password"))
        return VolumeSource(
            "network", f"{iqn}/{lun}", protocol="iscsi", hosts=(host,), auth_user=user,
            secret=secret, initiator=self._initiator,
        )  # fmt: skip
