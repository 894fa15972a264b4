"""The volumes of this host: each is the matter of its protocol, and here is what all have."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

from compute.model.guest import HostFacts
from compute.model.volume import VolumeSource
from virt.storage import command
from virt.volumes.backend import Backend
from virt.volumes.brick import Brick
from virt.volumes.connection import Connection
from virt.volumes.iscsi import ISCSI
from virt.volumes.keys import FromConnection, KeyManager, Keys, Secrets
from virt.volumes.library import Library
from virt.volumes.local import Local
from virt.volumes.nbd import NBD
from virt.volumes.rbd import RBD
from virt.volumes.share import TYPES as SHARES
from virt.volumes.share import Share
from virt.volumes.users import Users

INITIATOR_FILE = "/etc/iscsi/initiatorname.iscsi"


class Volumes:
    """Connects volumes to this host, for one guest each.

    :param secrets: where the hypervisor looks for them.
    :param manager: where passphrases come from; by default along with the connection.
    """

    def __init__(self, conf: Any, secrets: Secrets, manager: KeyManager | None = None):
        self._conf, self._options = conf, conf.libvirt
        self._keys = Keys(secrets, manager or FromConnection())
        self._qemu_img = command.QemuImg(
            conf.disk.images_cpu_time_limit, conf.disk.images_address_space_limit,
            conf.disk.command_timeout,
        )  # fmt: skip
        self._library = Library(self._options, conf.state_path)
        self._users = Users(os.path.join(conf.state_path, "volumes"))

    def connector_properties(self, facts: HostFacts) -> dict[str, Any]:
        """What the volume service has to know of this host; os-brick's answer where it is used."""
        plain = {
            "ip": facts.host_ip, "host": facts.hypervisor_hostname,
            "platform": platform.machine(), "os_type": sys.platform,
            "multipath": False, "initiator": self._initiator,
        }  # fmt: skip
        if self._options.volume_iscsi == "qemu":
            return plain
        found = self._library.properties(facts.host_ip, facts.hypervisor_hostname)
        return {**plain, **found}

    def connect(self, connection_info: Mapping[str, Any], instance_uuid: str) -> VolumeSource:
        """Bring a volume to this host; idempotent. Its secrets need to be told the first time only.

        :raises Failed: code ``volume_unacceptable``, ``volume_unsupported``, ``volume_missing``,
            ``volume_secret_missing``, ``volume_library_missing``, ``volume_failed``.
        :raises Retryable: code ``volume_unreachable``, ``volume_busy``.
        :raises Unknown: code ``volume_timeout``: it may be connected.
        """
        connection = Connection.of(connection_info, instance_uuid)
        backend, limits = self._backend(connection.type), connection.limits()
        source = backend.connect(connection)
        luks = self._keys.passphrase(connection) if connection.encrypted else ""
        discard = bool(connection.data.get("discard", backend.discards))
        return replace(source, serial=connection.volume, iotune=limits, luks_secret=luks,
                       discard=discard, readonly=connection.readonly)  # fmt: skip

    def disconnect(self, connection_info: Mapping[str, Any], instance_uuid: str) -> None:
        """Take a volume off this host, and forget its secrets; quiet if it is gone.

        :raises Retryable: code ``volume_unreachable``, ``volume_busy``: something may be left.
        :raises Unknown: code ``volume_timeout``, ``volume_users_unknown``.
        """
        connection = Connection.of(connection_info, instance_uuid)
        self._backend(connection.type).disconnect(connection)
        self._keys.forget(connection)

    def grow(self, connection_info: Mapping[str, Any]) -> int:
        """Let the host see that a volume has grown: the new size in bytes, 0 where only QEMU can
        tell."""
        connection = Connection.of(connection_info)
        return self._backend(connection.type).size(connection, connection.format)

    def usable(self, connection_info: Mapping[str, Any]) -> int:
        """What of :meth:`grow` the guest gets: without the header of LUKS. An encrypted disk that
        is in use is made larger by this size."""
        connection = Connection.of(connection_info)
        return self._backend(connection.type).size(connection, connection.layout)

    def _backend(self, kind: str) -> Backend:
        if kind == "iscsi" and self._options.volume_iscsi == "host":
            return self._brick
        return self._backends.get(kind, self._brick)

    @cached_property
    def _backends(self) -> dict[str, Backend]:
        share = Share(self._library, self._users, self._qemu_img, self._options,
                      os.path.join(self._conf.state_path, "mnt"))  # fmt: skip
        return {
            "local": Local(self._qemu_img),
            "nbd": NBD(self._qemu_img),
            "iscsi": ISCSI(self._keys, self._initiator),
            "rbd": RBD(self._keys, self._options),
            **dict.fromkeys(SHARES, share),
        }

    @cached_property
    def _brick(self) -> Brick:
        return Brick(self._library, self._users, self._qemu_img)

    @cached_property
    def _initiator(self) -> str:
        """The name by which QEMU logs in: the kernel's, else one that is made of the host's."""
        try:
            with open(INITIATOR_FILE, encoding="utf-8") as file:
                lines = dict(line.strip().partition("=")[::2] for line in file)
        except OSError:
            lines = {}
        return lines.get("InitiatorName") or f"iqn.2008-11.org.linux-kvm:{self._conf.host}"
