"""What a domain has used: one bulk query, which does not wait for a job that goes on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import libvirt
from lxml import etree

from compute.errors import Refused
from compute.model import states
from compute.model.diagnostics import Diagnostics, DiskUse, NicUse
from virt.libvirt.connection import Connection
from virt.libvirt.domains import Domains
from virt.libvirt.states import power_state

WANTED = (
    libvirt.VIR_DOMAIN_STATS_STATE
    | libvirt.VIR_DOMAIN_STATS_VCPU
    | libvirt.VIR_DOMAIN_STATS_BLOCK
    | libvirt.VIR_DOMAIN_STATS_INTERFACE
    | libvirt.VIR_DOMAIN_STATS_BALLOON
)
NOWAIT = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
COUNTED = ("bytes", "pkts", "errs", "drop")
OWN_FIELDS = ("current", "maximum")


def read(connection: Connection, domains: Domains, uuid: str) -> Diagnostics:
    """See :meth:`virt.driver.Driver.diagnostics`."""
    domain = domains.required(uuid)
    [(_, stats)] = connection.ask(
        "read_domain_stats", libvirt.virConnect.domainListGetStats, [domain], WANTED, NOWAIT
    )
    power = power_state(stats["state.state"])
    if power != states.RUNNING:
        raise Refused(
            f"Guest {uuid} is {states.POWER_NAMES.get(power, power)}, so there is nothing to "
            "measure.",
            now="Nothing was changed.",
            next="Ask again when it runs.",
            code="not_running",
        )
    document = etree.fromstring(connection.call("read_domain_xml", domain.XMLDesc))
    macs = {nic.find("target").get("dev"): nic.find("mac").get("address")
            for nic in document.iter("interface") if nic.find("target") is not None}
    return Diagnostics(
        power_state=power,
        virt_type=document.get("type", ""),
        cpus=tuple(vcpu.get("time", 0) for vcpu in _listed(stats, "vcpu", "maximum")
                   if "state" in vcpu),
        disks=tuple(_disk(found) for found in _listed(stats, "block", "count")
                    if "name" in found),
        nics=tuple(_nic(found, macs) for found in _listed(stats, "net", "count")),
        memory_max=stats.get("balloon.maximum", 0),
        memory_now=stats.get("balloon.current", 0),
        memory={key.removeprefix("balloon."): value for key, value in stats.items()
                if key.startswith("balloon.") and key.removeprefix("balloon.") not in OWN_FIELDS},
    )


def _listed(stats: Mapping[str, Any], group: str, count: str) -> Iterator[dict[str, Any]]:
    """The members of a group of statistics: ``block.0.errors`` is ``errors`` of the first."""
    for number in range(stats.get(f"{group}.{count}", stats.get(f"{group}.current", 0))):
        prefix = f"{group}.{number}."
        yield {key.removeprefix(prefix): value for key, value in stats.items()
               if key.startswith(prefix)}


def _disk(found: Mapping[str, Any]) -> DiskUse:
    return DiskUse(
        name=found["name"], reads=found.get("rd.reqs", 0), read_bytes=found.get("rd.bytes", 0),
        writes=found.get("wr.reqs", 0), write_bytes=found.get("wr.bytes", 0),
        errors=found.get("errors", 0),
    )  # fmt: skip


def _nic(found: Mapping[str, Any], macs: Mapping[str, str]) -> NicUse:
    name = found.get("name", "")
    rx, tx = (tuple(found.get(f"{way}.{what}", 0) for what in COUNTED) for way in ("rx", "tx"))
    return NicUse(name, macs.get(name, ""), rx, tx)
