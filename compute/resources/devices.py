"""The PCI devices of this host: who has them, which a guest gets, what the control plane hears."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from compute.errors import Refused
from compute.model.guest import Guest, HostFacts
from compute.model.numa import Placement
from compute.model.pci import Given, given_from
from compute.resources import pci
from compute.resources.pci import Nearness, Offer, Request
from compute.rpc.primitives import Primitive, make, make_list
from db.journal import Claim
from virt.devices import policy, wanted

UNNAMED = "?"  # the alias of a device that a guest has and its flavor does not ask for


def given_in(claims: Iterable[Claim], guest: Guest) -> tuple[Given, ...]:
    """The devices that one of a guest's claims holds for what its flavor asks for."""
    wishes = wanted(guest)
    if not wishes:
        return ()
    return next((held for claim in claims for held in _held(claim)
                 if pci.fulfils(held, wishes)), ())


def _held(claim: Claim) -> Iterator[tuple[Given, ...]]:
    """The devices that a claim holds: one set, or for a moment two (steps.resize.keep_room)."""
    for name in ("pci", "spare_pci"):
        if claim.data.get(name):
            yield given_from(claim.data[name])


def holders(claims: Iterable[Claim]) -> dict[str, str]:
    """Which guest holds each device, by address."""
    return {given.address: claim.guest for claim in claims
            for held in _held(claim) for given in held}


class Devices:
    """The devices of one host. Choosing happens under the lock of those who claim.

    :param facts: tells the host's facts, anew with ``refresh=True``.
    :param claims: tells all claims of room.
    """

    def __init__(self, conf: Any, host: str, facts: Callable[..., HostFacts],
                 claims: Callable[[], list[Claim]]):
        self._conf, self._host, self._facts, self._claims = conf, host, facts, claims

    def choose(self, guest: Guest, place: Placement | None) -> tuple[Given, ...]:
        """Devices for a guest at a place (None: anywhere), among them those that it has already.

        :raises Refused: code ``no_room``, naming what is missing.
        """
        cells = None if place is None else Nearness.of(
            (placed.host for placed in place.cells), self._facts().cells)
        try:
            return pci.choose(self._requests(guest), self._free(guest), cells, self._own(guest))
        except pci.NoDevice as reason:
            raise Refused(
                f"Guest {guest.uuid} does not get its PCI devices on host {self._host}: {reason}.",
                now="Nothing was made on this host.",
                next="The scheduler is told and may try another host.", code="no_room",
            ) from reason

    def cells(self, guest: Guest) -> frozenset[int]:
        """NUMA cells that have free devices such as a guest asks for."""
        requests = self._requests(guest)
        return frozenset(
            offer.device.cell for offer in self._free(guest) if offer.device.cell is not None
            and any(request.takes(offer.device, None) for request in requests))

    def recorded(self, guest: Guest, addresses: Iterable[str]) -> tuple[Given, ...]:
        """Devices that a guest has without a claim, under the aliases that ask for them."""
        there, addresses = self._offers(), frozenset(addresses)
        mine = [offer for offer in there if offer.device.address in addresses]
        try:
            found = pci.choose(self._requests(guest), mine, None) if mine else ()
        except (pci.NoDevice, Refused):
            found = ()
        known = {given.address for given in found}
        parents = {offer.device.address: offer.device.parent for offer in there}
        return (*found, *(Given(UNNAMED, address, parent=parents.get(address))
                          for address in sorted(addresses - known)))

    def pools(self) -> Primitive:
        """The ComputeNode's pci_device_pools: how many are free of each kind."""
        counts: dict[tuple, int] = {}
        free = {offer.device.address for offer in pci.free(self._offers(), self._taken(None))}
        for offer in self._offers():
            device = offer.device
            key = (device.vendor, device.product, device.cell, device.kind, offer.spec.tags)
            counts[key] = counts.get(key, 0) + (device.address in free)
        return make_list("PciDevicePoolList", (
            make("PciDevicePool", {
                "vendor_id": vendor, "product_id": product, "numa_node": cell, "count": count,
                "tags": {"dev_type": kind, **dict(tags)}})
            for (vendor, product, cell, kind, tags), count in counts.items()))

    def _requests(self, guest: Guest) -> list[Request]:
        known, chosen = pci.aliases(self._conf.pci), policy(guest)
        wishes = wanted(guest)
        strange = sorted(set(wishes) - set(known))
        if strange:
            raise Refused(
                f"Host {self._host} knows no PCI alias {', '.join(strange)}.",
                now="Nothing was made on this host.",
                next="Add it to [pci] alias there, or choose another host.", code="no_room")
        return [Request(name, count, known[name], chosen) for name, count in wishes.items()]

    def _offers(self) -> list[Offer]:
        listed = pci.specs(self._conf.pci)
        return pci.offered(listed, self._facts().devices) if listed else []

    def _free(self, guest: Guest) -> list[Offer]:
        """Those that no other guest has."""
        return pci.free(self._offers(), self._taken(guest.uuid))

    def _taken(self, but: str | None) -> list[Given]:
        return [given for claim in self._claims() if claim.guest != but
                for held in _held(claim) for given in held]

    def _own(self, guest: Guest) -> frozenset[str]:
        return frozenset(given.address for claim in self._claims() if claim.guest == guest.uuid
                         for held in _held(claim) for given in held)
