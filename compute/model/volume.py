"""A volume of a guest, and where the hypervisor reaches it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

# What of a connection's data is a secret: libvirt keeps it from the first connect to the last
# disconnect, and nobody else does.
SECRETS = ("auth_password", "discovery_auth_password", "keyring", "passphrase")


def without_secrets(connection: Mapping[str, Any]) -> dict[str, Any]:
    """A connection_info that may be written down. It is enough to connect again with."""
    data = connection.get("data") or {}
    return {**connection, "data": {name: value for name, value in data.items()
                                   if name not in SECRETS}}


@dataclass(frozen=True)
class VolumeSource:
    """What the hypervisor needs to open a volume that is connected to this host.

    ``kind`` is libvirt's type of a disk: ``file``, ``block`` or ``network``. ``path`` is a path of
    this host, or a name within the ``protocol`` of ``hosts`` [(name, port)]. ``secret`` and
    ``luks_secret`` are uuids of libvirt's secrets. ``iotune`` has libvirt's names of limits.
    ``initiator`` is the name by which QEMU's own iSCSI initiator logs in.
    """

    kind: str
    path: str
    format: str = "raw"
    protocol: str = ""
    hosts: tuple[tuple[str, int], ...] = ()
    auth_user: str = ""
    secret: str = ""
    luks_secret: str = ""
    cache: str = "none"
    discard: bool = True
    iotune: Mapping[str, int] = field(default_factory=dict)
    serial: str = ""
    initiator: str = ""
    readonly: bool = False

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> VolumeSource:
        """The source that ``dataclasses.asdict`` made plain data of."""
        return cls(**{**plain, "hosts": tuple((name, port) for name, port in plain["hosts"])})


@dataclass(frozen=True)
class Volume:
    """One volume of a guest (one row of Nova's block device mapping).

    ``connection`` is the connection_info of the volume service, {driver_volume_type, data, ...};
    empty until the volume is connected to a host. ``target`` is the device's name in the domain,
    ``size_gb`` in GiB. ``boot_index`` 0 is what the guest boots from. ``serial`` is what a running
    guest knows it by, where that is not its id: it came in another one's place.
    """

    id: str
    attachment_id: str = ""
    connection: Mapping[str, Any] = field(default_factory=dict)
    target: str = "vdb"
    bus: str = "virtio"
    device: str = "disk"
    boot_index: int | None = None
    tag: str | None = None
    multiattach: bool = False
    size_gb: int = 0
    delete_on_termination: bool = False
    serial: str = ""

    @property
    def shown(self) -> str:
        """The serial number that the guest sees."""
        return self.serial or self.id

    @property
    def boots(self) -> bool:
        """Whether the guest boots from it."""
        return self.boot_index == 0

    def to_plain(self) -> dict[str, Any]:
        """As plain data, without what is secret of its connection."""
        return {**asdict(self), "connection": without_secrets(self.connection)}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Volume:
        """The volume that :meth:`to_plain` made plain data of."""
        return cls(**plain)


@dataclass(frozen=True)
class Attached:
    """A volume that this host has for a guest; no ``source`` until it is connected."""

    volume: Volume
    source: VolumeSource | None = None

    def to_plain(self) -> dict[str, Any]:
        """As plain data, without secrets."""
        return {"volume": self.volume.to_plain(),
                "source": asdict(self.source) if self.source else None}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Attached:
        """What :meth:`to_plain` made plain data of."""
        source = plain.get("source")
        return cls(Volume.from_plain(plain["volume"]),
                   VolumeSource.from_plain(source) if source else None)

    def seen_as(self, serial: str) -> Attached:
        """The same with another serial number; the volume's own if that is its id."""
        return replace(self, volume=replace(
            self.volume, serial="" if serial == self.volume.id else serial))
