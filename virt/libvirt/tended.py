"""The part of the libvirt driver with which owners tend to a guest."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from compute.model.diagnostics import Diagnostics, Usage
from compute.model.guest import CachedImage, Disk, Guest, Image
from virt.libvirt.connection import Connection
from virt.libvirt.domains import Domains

if TYPE_CHECKING:
    from virt.libvirt.agent import GuestAgent


class Tended:
    """Methods of :class:`virt.driver.Driver`, "tended by its owner"."""

    connection: Connection
    domains: Domains
    store: Any

    @cached_property
    def agents(self) -> GuestAgent:
        from virt.libvirt.agent import GuestAgent  # not needed to start

        return GuestAgent(self.connection, self.domains)

    def inject_nmi(self, uuid: str) -> None:
        self.connection.call("interrupt_domain", self.domains.required(uuid).injectNMI)

    def diagnostics(self, uuid: str) -> Diagnostics:
        from virt.libvirt import diagnostics

        return diagnostics.read(self.connection, self.domains, uuid)

    def usage(self) -> Mapping[str, Usage]:
        from virt.libvirt import usage

        return usage.read(self.connection, self.domains)

    # -- its agent --------------------------------------------------------------------------
    def set_password(self, uuid: str, user: str, password: str) -> None:
        self.agents.set_password(uuid, user, password)

    def freeze(self, uuid: str) -> None:
        self.agents.freeze(uuid)

    def thaw(self, uuid: str) -> None:
        self.agents.thaw(uuid)

    # -- rescue -----------------------------------------------------------------------------
    def create_rescue_disks(
        self, guest: Guest, image: Image, base: CachedImage, secrets: Mapping[str, str]
    ) -> tuple[Disk, ...]:
        return self.store.rescuing.create(guest, image, base, secrets)

    def rescue_disks(self, uuid: str) -> tuple[Disk, ...]:
        return self.store.rescuing.disks(uuid)

    def delete_rescue_disks(self, uuid: str) -> None:
        self.store.rescuing.delete(uuid)
