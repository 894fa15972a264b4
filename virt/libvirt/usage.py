"""What all guests use: one bulk query, which does not wait for jobs that go on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import libvirt

from compute.model.diagnostics import Usage
from virt.libvirt.connection import Connection
from virt.libvirt.domains import Domains

WANTED = (
    libvirt.VIR_DOMAIN_STATS_CPU_TOTAL
    | libvirt.VIR_DOMAIN_STATS_BALLOON
    | libvirt.VIR_DOMAIN_STATS_BLOCK
    | libvirt.VIR_DOMAIN_STATS_INTERFACE
)
HOW = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE | \
    libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT


def read(connection: Connection, domains: Domains) -> dict[str, Usage]:
    """See :meth:`virt.driver.Driver.usage`."""
    found = connection.ask("read_usage", libvirt.virConnect.getAllDomainStats, WANTED, HOW)
    return {uuid: _usage(domain.name(), stats) for domain, stats in found
            if domains.is_ours(domain, uuid := domain.UUIDString())}


def _usage(name: str, stats: Mapping[str, Any]) -> Usage:
    def total(group: str, what: str) -> int:
        return sum(value for key, value in stats.items()
                   if key.startswith(f"{group}.") and key.endswith(f".{what}"))

    return Usage(
        name=name, cpu_ns=stats.get("cpu.time", 0), memory=stats.get("balloon.current", 0),
        resident=stats.get("balloon.rss", 0), disk_bytes=total("block", "physical"),
        read_bytes=total("block", "rd.bytes"), write_bytes=total("block", "wr.bytes"),
        rx_bytes=total("net", "rx.bytes"), tx_bytes=total("net", "tx.bytes"),
    )  # fmt: skip
