"""The part of the libvirt driver that is about volumes: on the host, and in domains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from compute.errors import Retryable
from compute.model.guest import CopyState, Guest, HostFacts
from compute.model.volume import Volume, VolumeSource
from virt.libvirt.connection import Connection
from virt.libvirt.domains import Domains

if TYPE_CHECKING:
    from virt.libvirt.domain_volumes import DomainVolumes
    from virt.libvirt.hardware import Hardware
    from virt.volumes.volumes import Volumes


class Attaching:
    """Methods of :class:`virt.driver.Driver`: volumes. Loaded when the first one is needed."""

    conf: Any
    connection: Connection
    domains: Domains
    host_facts: Callable[[], HostFacts]
    hardware_of: Callable[[Guest], Hardware]

    @cached_property
    def host_volumes(self) -> Volumes:
        from virt.libvirt.secrets import LibvirtSecrets
        from virt.volumes.volumes import Volumes

        return Volumes(self.conf, LibvirtSecrets(self.connection))

    @cached_property
    def domain_volumes(self) -> DomainVolumes:
        from virt.libvirt.domain_volumes import DomainVolumes

        return DomainVolumes(self.connection, self.domains)

    # -- on the host --------------------------------------------------------------------------
    def volume_connector(self) -> Mapping[str, Any]:
        return self.host_volumes.connector_properties(self.host_facts())

    def connect_volume(self, volume: Volume, uuid: str) -> VolumeSource:
        return self.host_volumes.connect(volume.connection, uuid)

    def disconnect_volume(self, volume: Volume, uuid: str) -> None:
        self.host_volumes.disconnect(volume.connection, uuid)

    # -- in a domain --------------------------------------------------------------------------
    def attach_volume(self, guest: Guest, volume: Volume, source: VolumeSource) -> None:
        from virt.libvirt import builder

        made = builder.volume(volume, source, guest.flavor, self.hardware_of(guest),
                              self.conf.libvirt)
        self.domain_volumes.attach(guest.uuid, volume, made)

    def detach_volume(self, uuid: str, volume: Volume) -> None:
        self.domain_volumes.detach(uuid, volume)

    def volumes(self, uuid: str) -> tuple[frozenset[str], frozenset[str] | None]:
        return self.domain_volumes.seen(uuid)

    def disk_targets(self, uuid: str) -> frozenset[str]:
        return self.domain_volumes.targets(uuid)

    def extend_volume(self, uuid: str, volume: Volume, size: int) -> int:
        """The host looks first; where only QEMU can tell the size, it is told the wanted one."""
        now = self.host_volumes.grow(volume.connection) or size
        if now < size:
            raise Retryable(
                f"Volume {volume.id} has {now} bytes on this host, and shall have {size}.",
                now="The guest sees it as it was.",
                next="It is looked at again; see whether the volume service has enlarged it.",
                code="volume_not_grown")
        encrypted = bool((volume.connection.get("data") or {}).get("encrypted"))
        usable = self.host_volumes.usable(volume.connection) if encrypted else now
        self.domain_volumes.resize(uuid, volume, usable)
        return now

    def begin_swap(self, uuid: str, volume: Volume, source: VolumeSource) -> None:
        self.domain_volumes.begin_swap(uuid, volume, source)

    def swap_state(self, uuid: str, volume: Volume) -> CopyState | None:
        return self.domain_volumes.swap_state(uuid, volume)

    def finish_swap(self, uuid: str, volume: Volume, source: VolumeSource) -> None:
        self.domain_volumes.finish_swap(uuid, volume, source)

    def swapped(self, uuid: str, volume: Volume, source: VolumeSource) -> bool:
        return self.domain_volumes.swapped(uuid, volume, source)

    def abort_swap(self, uuid: str, volume: Volume) -> None:
        self.domain_volumes.abort_swap(uuid, volume)
