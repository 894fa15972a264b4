"""Domains of libvirt's smaller drivers, which know neither jobs nor saved memory."""

from __future__ import annotations

from functools import partial
from typing import Any

import libvirt

from compute.errors import Refused
from virt.libvirt.domains import OFF, Domains


class PlainDomains(Domains):
    """As :class:`Domains`, with one call more for each domain: they have no bulk query."""

    undefine_flags = 0

    def _all(self) -> list[tuple[Any, int, int]]:
        listed = self._connection.ask("list_domains", libvirt.virConnect.listAllDomains, 0)
        found = []
        for domain in listed:
            try:
                number, why = self._connection.call("read_domain_state", domain.state)
            except Refused as error:
                if error.code != "guest_not_found":
                    raise
            else:
                found.append((domain, number, why))
        return found

    def _saved(self) -> set[str]:
        return set()

    def has_saved(self, domain: Any) -> bool:
        return False

    def job(self, domain: Any, uuid: str, number: int, why: int) -> str:
        return ""


class Containers(PlainDomains):
    """Those of libvirt's driver for LXC."""

    def shutdown(self, uuid: str) -> None:
        """Tell init by its pipe, as systemd and SysV's like it, and by SIGTERM, for all others: an
        init without a pipe has libvirt believe that it was told."""
        super().shutdown(uuid)
        domain = self.required(uuid)
        self._unless(domain, OFF, "signal_container",
                     partial(domain.shutdownFlags, libvirt.VIR_DOMAIN_SHUTDOWN_SIGNAL))  # fmt: skip
