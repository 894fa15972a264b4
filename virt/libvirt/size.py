"""More vCPUs and memory for a guest that runs, within the maxima that it was booted with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import libvirt

from compute.errors import Failed, Refused
from compute.model.guest import Disk, Flavor
from virt.libvirt import quota
from virt.libvirt.connection import Connection
from virt.libvirt.domains import Domains
from virt.xml.cpu import CPUTune
from virt.xml.domain import Domain

GIB = 2**30
LIVE_AND_STORED = libvirt.VIR_DOMAIN_AFFECT_LIVE | libvirt.VIR_DOMAIN_AFFECT_CONFIG
TUNED = ("shares", "period", "quota")


class Size:
    """Resizes running domains of one libvirtd.

    :param disks: tells the disks of a guest.
    """

    def __init__(
        self, connection: Connection, domains: Domains,
        disks: Callable[[str], tuple[Disk, ...]],
    ):
        self._connection, self._domains, self._disks = connection, domains, disks

    def why_not(self, uuid: str, flavor: Flavor) -> str | None:
        """Why a running guest cannot get a flavor without a restart; None when it can.

        What only the flavors tell, such as extra specs for other hardware, is the caller's to
        compare.
        """
        handle = self._domains.required(uuid)
        number, _ = self._connection.call("read_domain_state", handle.state)
        if number != libvirt.VIR_DOMAIN_RUNNING:
            return "The guest does not run."
        domain = self._live(handle)
        for reason in (
            _vcpus(domain, flavor), _memory(domain, flavor), self._storage(uuid, flavor),
            _limits(domain, flavor),
        ):
            if reason:
                return reason
        return None

    def _storage(self, uuid: str, flavor: Flavor) -> str | None:
        sizes = {disk.role: disk.size for disk in self._disks(uuid)}
        for role, wanted in (
            ("root", flavor.root_gb * GIB), ("ephemeral", flavor.ephemeral_gb * GIB),
            ("swap", flavor.swap_mb << 20),
        ):
            if wanted and wanted != sizes.get(role, 0) or (role != "root" and role in sizes
                                                           and not wanted):
                return f"The size of its {role} disk changes, which needs a restart."
        return None

    def resize(self, uuid: str, flavor: Flavor) -> None:
        """Give a running guest a flavor's memory and vCPUs. Quiet if it has them.

        :raises Refused: code ``not_live``, with the reason.
        """
        reason = self.why_not(uuid, flavor)
        if reason:
            raise Refused(
                f"Guest {uuid} cannot get flavor {flavor.name} while it runs: {reason}",
                now="Nothing was changed.",
                next="Let the resize restart the guest.",
                code="not_live",
            )
        handle = self._domains.required(uuid)
        domain = self._live(handle)
        if current_memory(domain) != flavor.memory_mb * 1024:
            self._connection.call("set_memory", handle.setMemoryFlags, flavor.memory_mb * 1024,
                                  LIVE_AND_STORED)  # fmt: skip
        if current_vcpus(domain) != flavor.vcpus:
            self._connection.call("set_vcpus", handle.setVcpusFlags, flavor.vcpus,
                                  LIVE_AND_STORED)  # fmt: skip

    def _live(self, handle: Any) -> Domain:
        return Domain.parse(self._connection.call("read_definition", handle.XMLDesc, 0))


def current_vcpus(domain: Domain) -> int:
    """The vCPUs that a domain has online."""
    return domain.vcpus_online or domain.vcpus


def current_memory(domain: Domain) -> int:
    """The memory that a domain's balloon leaves it, or is to leave it, in KiB."""
    return domain.memory_now or domain.memory


def _vcpus(domain: Domain, flavor: Flavor) -> str | None:
    if flavor.vcpus < current_vcpus(domain):
        return "vCPUs cannot be taken from a guest that runs."
    if flavor.vcpus > domain.vcpus:
        return (f"It was booted with at most {domain.vcpus} vCPUs "
                "([libvirt] live_resize_max_vcpus).")  # fmt: skip
    return None


def _memory(domain: Domain, flavor: Flavor) -> str | None:
    wanted = flavor.memory_mb * 1024
    if wanted == current_memory(domain):
        return None
    if not any(balloon.model == "virtio" for balloon in domain.devices.balloons):
        return "It has no memory balloon."
    if wanted > domain.memory:
        return (f"It was booted with at most {domain.memory // 1024} MiB of memory "
                "([libvirt] live_resize_max_memory_mb).")  # fmt: skip
    return None


def _limits(domain: Domain, flavor: Flavor) -> str | None:
    """Whether the flavor's limits on CPU time are those that the guest has."""
    try:
        wanted = quota.cputune(flavor)
    except Failed as error:
        return error.what
    has = domain.cputune
    if _tuned(has) != _tuned(wanted):
        return "Its limits on CPU time change, which needs a restart."
    return None


def _tuned(tune: CPUTune | None) -> list[int | None]:
    return [getattr(tune, name) if tune is not None else None for name in TUNED]
