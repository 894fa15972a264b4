"""The part of the libvirt driver with which owners tend to a guest: interrupts and rescue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compute.model.guest import CachedImage, Disk, Guest, Image
from virt.libvirt.connection import Connection
from virt.libvirt.domains import Domains


class Tended:
    """Methods of :class:`virt.driver.Driver`, "tended by its owner"."""

    connection: Connection
    domains: Domains
    store: Any

    def inject_nmi(self, uuid: str) -> None:
        self.connection.call("interrupt_domain", self.domains.required(uuid).injectNMI)

    # -- rescue -----------------------------------------------------------------------------
    def create_rescue_disks(
        self, guest: Guest, image: Image, base: CachedImage, secrets: Mapping[str, str]
    ) -> tuple[Disk, ...]:
        return self.store.rescuing.create(guest, image, base, secrets)

    def rescue_disks(self, uuid: str) -> tuple[Disk, ...]:
        return self.store.rescuing.disks(uuid)

    def delete_rescue_disks(self, uuid: str) -> None:
        self.store.rescuing.delete(uuid)
