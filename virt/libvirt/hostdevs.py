"""Devices of the host in a domain: those that it was given by alias, and those that one has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virt.xml import hostdev
from virt.xml.domain import Domain

if TYPE_CHECKING:
    from virt.libvirt.builder import Plan


def add(domain: Domain, plan: Plan) -> None:
    """Each device that the guest has claimed."""
    for given in plan.guest.devices:
        domain.devices.add(hostdev.pci(given.address, given.managed))


def of_domain(text: str) -> tuple[str, ...]:
    """Addresses of the host's PCI devices in a domain."""
    return tuple(str(one.address) for one in Domain.parse(text).devices.hostdevs
                 if one.type == "pci" and one.address is not None)
