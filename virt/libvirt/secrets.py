"""Secrets of libvirt: QEMU gets them from there, and nobody can read them back."""

from __future__ import annotations

from collections.abc import Mapping

import libvirt

from compute.errors import MagnetarError
from virt.libvirt.connection import Connection
from virt.xml.secret import Secret

DESCRIPTION = "Magnetar: a volume's"
# libvirt's type of usage -> the child that has its name, and libvirt's number for the type.
USAGES = {
    "volume": ("volume", libvirt.VIR_SECRET_USAGE_TYPE_VOLUME),
    "iscsi": ("target", libvirt.VIR_SECRET_USAGE_TYPE_ISCSI),
    "ceph": ("name", libvirt.VIR_SECRET_USAGE_TYPE_CEPH),
}


def document(identity: str, usage: str, name: str) -> Secret:
    """The description of a secret. It outlives libvirtd, for guests start without us as well."""
    made = Secret(ephemeral=False, private=True, uuid=identity,
                  description=f"{DESCRIPTION} {usage}", usage=usage)  # fmt: skip
    setattr(made, USAGES[usage][0], name)
    return made


class LibvirtSecrets:
    """See :class:`virt.volumes.keys.Secrets`."""

    def __init__(self, connection: Connection):
        self._connection = connection

    def define(self, identity: str, usage: str, name: str, value: bytes) -> None:
        text = document(identity, usage, name).to_xml()
        self._connection.ask("define_secret", _define, text, value)

    def exists(self, identity: str) -> bool:
        try:
            self._find(identity)
        except MagnetarError as error:
            if error.code == "secret_not_found":
                return False
            raise
        return True

    def undefine(self, identity: str) -> None:
        try:
            self._connection.call("undefine_secret", self._find(identity).undefine)
        except MagnetarError as error:
            if error.code != "secret_not_found":
                raise

    def ours(self) -> Mapping[str, str]:
        """The secrets that were made here: the name of the usage by uuid."""
        found = self._connection.ask("list_secrets", libvirt.virConnect.listAllSecrets, 0)
        kinds = {number for _, number in USAGES.values()}
        return {secret.UUIDString(): secret.usageID() for secret in found
                if secret.usageType() in kinds
                and secret.usageID().lstrip("/").startswith("volume:")}

    def _find(self, identity: str) -> libvirt.virSecret:
        return self._connection.ask("find_secret", libvirt.virConnect.secretLookupByUUIDString,
                                    identity)  # fmt: skip


def _define(handle: libvirt.virConnect, text: str, value: bytes) -> None:
    handle.secretDefineXML(text).setValue(value)
