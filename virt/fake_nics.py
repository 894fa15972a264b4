"""The fake hypervisor's NICs: what domains are defined with, and what is in them while they run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from compute.errors import Failed
from compute.model.guest import Guest, Nic
from virt.fake_moves import ON
from virt.fake_state import FakeState, hooked


class FakeNics(FakeState):
    """See virt.driver.Driver, "networks of this host".

    A domain's ``nics`` are the MAC addresses of its definition; ``live_nics``, those in it since it
    was started, are only there when they differ. ``stubborn`` are MAC addresses that no guest lets
    go, ``full`` says that no guest has a free slot.
    """

    stubborn: frozenset[str]
    full = False

    @hooked
    def attach_nic(self, guest: Guest, nic: Nic) -> None:
        found = self._need(guest.uuid)
        live = found.get("live_nics", found["nics"])
        runs = found["power_state"] in ON
        if self.full and nic.mac not in live:
            raise Failed(f"Guest {guest.uuid} has no free slot for a NIC.", now="It has none more.",
                         next="Stop it and ask again.", code="hypervisor_error")
        self._write(guest.uuid, {**found, "taps": {**found.get("taps", {}), nic.mac: nic.tap}})
        self._set_nics(guest.uuid, _with(found["nics"], nic.mac),
                       _with(live, nic.mac) if runs else None)

    @hooked
    def detach_nic(self, uuid: str, nic: Nic) -> None:
        found = self._need(uuid)
        live = found.get("live_nics", found["nics"])
        runs = found["power_state"] in ON
        stays = nic.mac in self.stubborn
        self._set_nics(uuid, _without(found["nics"], nic.mac),
                       (live if stays else _without(live, nic.mac)) if runs else None)

    @staticmethod
    def redefined(found: Mapping[str, Any] | None, nics: Iterable[Nic]) -> dict[str, Any]:
        """What a definition with these NICs says; a running domain keeps those that it has."""
        taps = {nic.mac: nic.tap for nic in nics}
        before = found or {}
        live = before.get("live_nics", before.get("nics"))
        differs = before.get("power_state") in ON and live != list(taps)
        return {"nics": list(taps), "taps": {**before.get("taps", {}), **taps},
                **({"live_nics": live} if differs else {})}

    def _set_nics(self, uuid: str, stored: list[str], live: list[str] | None) -> None:
        found = {k: v for k, v in self._need(uuid).items() if k != "live_nics"}
        differs = live is not None and live != stored
        self._write(uuid, {**found, "nics": stored, **({"live_nics": live} if differs else {})})

    @hooked
    def nics(self, uuid: str) -> tuple[frozenset[str], frozenset[str] | None]:
        found = self._need(uuid)
        live = found.get("live_nics", found["nics"])
        return (frozenset(found["nics"]),
                frozenset(live) if found["power_state"] in ON else None)

    @hooked
    def taps(self) -> Mapping[str, frozenset[str]]:
        running = {path.stem: found for path in self.domains.glob("*.json")
                   if (found := self._need(path.stem))["power_state"] in ON}
        return {uuid: frozenset(found.get("taps", {}).get(mac, mac)
                                for mac in found.get("live_nics", found["nics"]))
                for uuid, found in running.items()}


def _with(macs: list[str], mac: str) -> list[str]:
    return macs if mac in macs else [*macs, mac]


def _without(macs: list[str], mac: str) -> list[str]:
    return [other for other in macs if other != mac]
