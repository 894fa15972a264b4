"""NICs of domains: into one that runs or is off, out of it, and which there are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import libvirt
from lxml import etree

from compute.errors import Failed, MagnetarError, Refused
from compute.model.guest import Nic
from virt.libvirt.connection import Connection
from virt.libvirt.domains import Domains
from virt.xml.domain import Domain

STORED = libvirt.VIR_DOMAIN_AFFECT_CONFIG
LIVE = libvirt.VIR_DOMAIN_AFFECT_LIVE
# What libvirt says while a guest was asked already, or has let go in this moment.
UNDER_WAY = ("invalid_state", "hypervisor_error", "libvirt_busy", "unsupported", "device_missing")


class DomainNics:
    """The NICs of the domains of one libvirtd; each is known by its MAC address."""

    def __init__(self, connection: Connection, domains: Domains):
        self._connection, self._domains = connection, domains

    def attach(self, uuid: str, nic: Nic, text: str) -> None:
        """Put a NIC, whose XML is ``text``, where it is missing. Into the running domain first:
        what it cannot take is not stored either."""
        domain = self._domains.required(uuid)
        stored, live = self._nodes(domain)
        if live is not None and nic.mac.lower() not in live:
            self._connection.call("attach_nic", domain.attachDeviceFlags, text, LIVE)
        if nic.mac.lower() not in stored:
            self._connection.call("store_nic", domain.attachDeviceFlags, text, STORED)

    def detach(self, uuid: str, nic: Nic) -> None:
        """Take a NIC out of the definition, and ask a running guest to let go of it."""
        domain = self._domains.required(uuid)
        stored, live = self._nodes(domain)
        if (node := stored.get(nic.mac.lower())) is not None:
            self._connection.call("forget_nic", domain.detachDeviceFlags, _text(node), STORED)
        if live is None or (node := live.get(nic.mac.lower())) is None:
            return
        try:
            self._connection.call("detach_nic", domain.detachDeviceFlags, _text(node), LIVE)
        except MagnetarError as error:
            if error.code not in UNDER_WAY:
                raise

    def seen(self, uuid: str) -> tuple[frozenset[str], frozenset[str] | None]:
        """See :meth:`virt.driver.Driver.nics`."""
        stored, live = self._nodes(self._domains.required(uuid))
        return frozenset(stored), None if live is None else frozenset(live)

    def taps(self) -> Mapping[str, frozenset[str]]:
        """See :meth:`virt.driver.Driver.taps`."""
        try:
            found = self._connection.ask(
                "list_domain_taps", libvirt.virConnect.getAllDomainStats,
                libvirt.VIR_DOMAIN_STATS_INTERFACE,
                libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE
                | libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT,
            )  # fmt: skip
        except Failed as error:
            if error.code != "unsupported":
                raise
            return self._taps_one_by_one()
        return {domain.UUIDString(): frozenset(
            name for key, name in stats.items() if key.startswith("net.") and key.endswith(".name")
        ) for domain, stats in found}

    def _taps_one_by_one(self) -> Mapping[str, frozenset[str]]:
        """The same from libvirt's smaller drivers, which have no bulk query."""
        listed = self._connection.ask("list_active_domains", libvirt.virConnect.listAllDomains,
                                      libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)  # fmt: skip
        found = {}
        for domain in listed:
            try:
                text = self._connection.call("read_definition", domain.XMLDesc, 0)
            except Refused as error:
                if error.code != "guest_not_found":
                    raise
            else:
                nics = Domain.parse(text).devices.interfaces
                found[domain.UUIDString()] = frozenset(nic.tap for nic in nics if nic.tap)
        return found

    def _nodes(self, domain: Any) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """The interface elements by MAC address: those stored, and those of the running domain."""
        stored = self._read(domain, libvirt.VIR_DOMAIN_XML_INACTIVE)
        active = self._connection.call("read_activity", domain.isActive)
        return stored, self._read(domain, 0) if active else None

    def _read(self, domain: Any, flags: int) -> dict[str, Any]:
        text = self._connection.call("read_definition", domain.XMLDesc,
                                     flags | libvirt.VIR_DOMAIN_XML_SECURE)  # fmt: skip
        found = Domain.parse(text).devices.interfaces
        return {each.mac.lower(): each.node for each in found if each.mac}


def _text(node: Any) -> str:
    return etree.tostring(node, encoding="unicode").strip()
