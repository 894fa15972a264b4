"""What this host can run: machine types with their versions, CPU, domain types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from compute.errors import Failed
from compute.model.numa import HostCell, parse_set
from virt.xml.capabilities import Capabilities


@dataclass(frozen=True)
class Support:
    """One architecture: ``machines`` by name to the most vCPUs each takes, ``aliases`` to the
    versioned name that each stands for."""

    arch: str
    emulator: str
    types: tuple[str, ...]
    machines: Mapping[str, int]
    aliases: Mapping[str, str]


@dataclass(frozen=True)
class HostCaps:
    """A host as libvirt describes it; ``cpu_info`` has the shape of Nova's, and ``uuid`` is what
    libvirt tells hosts apart by."""

    arch: str
    cpu_info: Mapping
    support: Mapping[str, Support] = field(default_factory=dict)
    uuid: str = ""
    cells: tuple[HostCell, ...] = ()

    def native(self) -> Support:
        """What the host offers for its own architecture. Raises Failed if that is nothing."""
        try:
            return self.support[self.arch]
        except KeyError:
            raise Failed(
                f"libvirt offers no domain of type hvm for {self.arch}.",
                now="No guest can run on this host.",
                next="Install the QEMU package for this architecture and restart libvirtd.",
                code="unsupported",
            ) from None


def parse(text: str) -> HostCaps:
    """Read libvirt's capabilities document."""
    caps = Capabilities.parse(text)
    cpu = caps.host.cpu
    topology, cells = cpu.topology, caps.host.topology
    info = {
        "arch": cpu.arch,
        "model": cpu.model,
        "vendor": cpu.vendor,
        "topology": {
            "cells": (cells.cells.count if cells is not None and cells.cells else None) or 1,
            "sockets": topology.sockets if topology else 1,
            "cores": topology.cores if topology else 1,
            "threads": topology.threads if topology else 1,
        },
        "features": sorted(feature.name for feature in cpu.features),
    }
    support = {
        guest.arch.name: _support(guest.arch) for guest in caps.guests if guest.os_type == "hvm"
    }
    listed = cells.cells.listed if cells is not None and cells.cells is not None else []
    return HostCaps(cpu.arch, info, support, caps.host.uuid or "",
                    tuple(_cell(cell) for cell in listed))


def _cell(told: Any) -> HostCell:
    cpus = told.cpus.listed if told.cpus is not None else []
    siblings = {parse_set(cpu.siblings) for cpu in cpus if cpu.siblings}
    return HostCell(
        id=told.id, cpus=frozenset(cpu.id for cpu in cpus),
        siblings=tuple(sorted(siblings, key=sorted)), memory_mb=(told.memory or 0) // 1024,
        pages={page.size: page.count for page in told.pages},
        socket=cpus[0].socket if cpus else None,
    )  # fmt: skip


def _support(arch) -> Support:
    machines: dict[str, int] = {}
    aliases: dict[str, str] = {}
    for machine in arch.machines:
        machines[machine.name] = machine.max_cpus or 0
        if machine.canonical:
            aliases[machine.name] = machine.canonical
    return Support(
        arch.name, arch.emulator, tuple(d.type for d in arch.domains), machines, aliases
    )


def machine_type(support: Support, wanted: str) -> str:
    """The versioned name of a machine type. Raises Failed(code='image_unacceptable')."""
    versioned = support.aliases.get(wanted, wanted)
    if versioned not in support.machines:
        known = sorted(support.aliases) or sorted(support.machines)
        raise Failed(
            f"Machine type {wanted!r} is not offered by QEMU on this host.",
            now="The guest was not defined.",
            next=f"Set hw_machine_type to one of {', '.join(known)}, or to a versioned name that "
            "'qemu-system -machine help' lists.",
            code="image_unacceptable",
        )
    return versioned
