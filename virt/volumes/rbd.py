"""Volumes in Ceph, which QEMU reaches through librbd (package qemu-block-extra).

The key is either a secret that the operator gave libvirt on each host (``rbd_secret_uuid``, or
``secret_uuid`` of the connection), or a keyring that the volume service sends along. Never run
against a cluster here: the XML is what libvirt's schema and documentation ask for.
"""

from __future__ import annotations

import base64
import re
from typing import Any

from compute.model.volume import VolumeSource
from virt.volumes.backend import Backend
from virt.volumes.connection import Connection, addresses, unacceptable
from virt.volumes.keys import Keys

PORT = 6789
KEY = re.compile(r"^\s*key\s*=\s*(\S+)\s*$", re.MULTILINE)


class RBD(Backend):
    """:param options: the group [libvirt]."""

    discards = True

    def __init__(self, keys: Keys, options: Any):
        self._keys, self._options = keys, options

    def connect(self, connection: Connection) -> VolumeSource:
        data = connection.data
        name = str(connection.need("name"))
        if "/" not in name:
            raise unacceptable(connection.volume, f"names no pool: {name!r}")
        hosts, user, secret = addresses(connection, PORT), "", ""
        if data.get("auth_enabled"):
            # An operator's own user goes with an operator's own secret.
            user = self._options.rbd_user or str(connection.need("auth_username"))
            secret = self._secret(connection)
        return VolumeSource("network", name, protocol="rbd", hosts=hosts, auth_user=user,
                            secret=secret)  # fmt: skip

    def _secret(self, connection: Connection) -> str:
        given = self._options.rbd_secret_uuid or connection.data.get("secret_uuid")
        if given:
            return str(given)
        return self._keys.keep(connection, "cephx", _key(connection))


def _key(connection: Connection) -> bytes | None:
    """The key of a keyring, as libvirt keeps it: the bytes that the base64 text says."""
    keyring = connection.data.get("keyring")
    if not keyring:
        return None
    found = KEY.search(str(keyring))
    try:
        return base64.b64decode(found[1] if found else str(keyring).strip(), validate=True)
    except ValueError:
        raise unacceptable(connection.volume, "has a keyring without a key") from None
