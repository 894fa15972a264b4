"""The secrets of a volume: passwords of its server, the passphrase of its encryption.

They are handed to libvirt, which gives them to QEMU, and nothing else keeps them. Their uuids
follow from volume, guest and purpose, so that nothing has to be remembered to find them again.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any, Protocol

from compute.errors import Failed
from virt.volumes.connection import Connection

NAMESPACE = uuid.UUID("5f3c7a52-6f0e-5e5b-9a8e-6a3d1f2b7c41")
# Purpose -> libvirt's type of usage.
USAGES = {"chap": "iscsi", "cephx": "ceph", "luks": "volume"}


class Secrets(Protocol):
    """Where the hypervisor looks for secrets."""

    def define(self, identity: str, usage: str, name: str, value: bytes) -> None:
        """Let the secret have this value, whether it existed or not."""

    def exists(self, identity: str) -> bool: ...

    def undefine(self, identity: str) -> None:
        """Forget the secret; quiet if there is none."""


class KeyManager(Protocol):
    """Where the passphrases of encrypted volumes come from."""

    def passphrase(self, volume: str, data: Mapping[str, Any]) -> str | None:
        """The passphrase of a volume, None if this one does not know it."""


class FromConnection:
    """The embedded volume service sends the passphrase along with the connection."""

    def passphrase(self, volume: str, data: Mapping[str, Any]) -> str | None:
        found = data.get("passphrase")
        return str(found) if found else None


def identity(volume: str, guest: str, purpose: str) -> str:
    """The uuid of a secret."""
    return str(uuid.uuid5(NAMESPACE, f"{volume}/{guest}/{purpose}"))


class Keys:
    """The secrets of volumes that are connected to this host."""

    def __init__(self, secrets: Secrets, manager: KeyManager):
        self._secrets, self._manager = secrets, manager

    def keep(self, connection: Connection, purpose: str, value: str | bytes | None) -> str:
        """Hand a secret to the hypervisor and return its uuid. Without a value the one from the
        first time has to be there.

        :raises Failed: code ``volume_secret_missing``.
        """
        name = identity(connection.volume, connection.guest, purpose)
        if value:
            path = "/" if purpose == "luks" else ""  # libvirt wants that one to look like a path
            usage = f"{path}volume:{connection.volume}:{connection.guest}"
            data = value.encode() if isinstance(value, str) else value
            self._secrets.define(name, USAGES[purpose], usage, data)
        elif not self._secrets.exists(name):
            raise Failed(
                f"The {purpose} secret of volume {connection.volume} is not known on this host.",
                now="The volume was not connected.",
                next="Attach it anew, so that the volume service tells it again.",
                code="volume_secret_missing",
            )
        return name

    def passphrase(self, connection: Connection) -> str:
        """Keep the passphrase of an encrypted volume; the secret's uuid."""
        found = self._manager.passphrase(connection.volume, connection.data)
        return self.keep(connection, "luks", found)

    def forget(self, connection: Connection) -> None:
        """Forget all that was kept for this volume and guest."""
        for purpose in USAGES:
            self._secrets.undefine(identity(connection.volume, connection.guest, purpose))
