"""Places of guests on the host's NUMA cells, and their PCI devices: claimed in the journal, told in
Nova's objects.

A place is part of a claim of room (``numa`` in its data), and so are devices (``pci``). They
are chosen and written down under one lock, so that no CPU, no page and no device is promised twice;
a guest keeps them until its claim goes.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from compute.errors import Failed, Refused
from compute.model.guest import Guest, HostFacts
from compute.model.numa import SMALL_KB, HostCell, Placed, Placement, cpu_sets
from compute.model.pci import Given
from compute.resources.devices import Devices, given_in, wanted
from compute.resources.placing import Ground, NoPlace, Taken, place
from compute.rpc.primitives import Primitive, data, make
from db.journal import Claim, Journal
from virt import topology


def need(guest: Guest) -> dict[str, int]:
    """What a guest takes: shared vCPUs, CPUs of its own, memory in MiB, disk in GiB."""
    wish, found = topology.wish(guest), guest.flavor.need()
    if wish is None:
        return found
    loose = sum(len(cell.cpus) - len(cell.dedicated) for cell in wish.cells)
    return {**found, "vcpus": loose, "pcpus": wish.dedicated}


def placement_in(claims: Iterable[Claim], guest: Guest) -> Placement | None:
    """The place that one of a guest's claims holds for what its flavor and image ask for."""
    wish = topology.wish(guest)
    if wish is None:
        return None
    return next((held for claim in claims for held in _held(claim) if held.fulfils(wish)), None)


def _held(claim: Claim) -> Iterator[Placement]:
    """The places that a claim holds: one, or for a moment two (see steps.resize.keep_room)."""
    for name in ("numa", "spare"):
        if claim.data.get(name):
            yield Placement.from_plain(claim.data[name])


def content_of(place: Placement | None, given: Iterable[Given]) -> dict[str, Any]:
    """What place and devices add to the data of a claim."""
    devices = [each.to_plain() for each in given]
    return {**({"numa": place.to_plain()} if place is not None else {}),
            **({"pci": devices} if devices else {})}


class Places:
    """The places of one host.

    :param claims: tells all claims of room.
    """

    def __init__(self, conf: Any, host: str, journal: Journal, facts: Callable[..., HostFacts],
                 claims: Callable[[], list[Claim]]):
        self._conf, self._host, self._journal = conf, host, journal
        self._facts, self._claims = facts, claims
        self.devices = Devices(conf, host, facts, claims)
        self._choosing = threading.Lock()

    def sets(self) -> tuple[frozenset[int], frozenset[int]]:
        """The host's shared and dedicated CPUs. Raises Failed when an option cannot be read."""
        try:
            return cpu_sets(self._conf.compute, self._facts().cells)
        except ValueError as error:
            raise Failed(f"{error}.", now="Nothing was changed.",
                         next="Write CPU numbers such as 4-15,^8 and restart the agent.",
                         code="bad_option") from error

    def claim(self, guest: Guest, kind: str, operation: str) -> Placement | None:
        """Choose the guest's place and devices and write them into its claim; what was chosen
        before stays.

        :raises Refused: code ``no_room``, with what is free in each cell, and of each device.
        """
        if topology.wish(guest) is None and not wanted(guest):
            return None
        if wanted(guest):
            self._facts(refresh=True)  # devices come and go
        with self._choosing:
            mine = self._journal.claims(guest=guest.uuid)
            found, given = self._settle(guest, kind, mine)
            own = next((claim.data for claim in mine if claim.kind == kind), None)
            content = {**(need(guest) if own is None else own), **content_of(found, given)}
            if content != own:
                self._journal.claim(kind, guest.uuid, guest.uuid, operation, content)
        return found

    def check(self, guest: Guest, kind: str) -> None:
        """See that there are place and devices, which are not kept. Raises
        Refused(code='no_room')."""
        if topology.wish(guest) is not None or wanted(guest):
            self._settle(guest, kind, self._journal.claims(guest=guest.uuid))

    def _settle(self, guest: Guest, kind: str, mine: list[Claim],
                ) -> tuple[Placement | None, tuple[Given, ...]]:
        """Place and devices of a guest: those that it holds, or else ones that go together."""
        held, given = placement_in(mine, guest), given_in(mine, guest)
        if topology.wish(guest) is None:
            return None, given or self.devices.choose(guest, None)
        if not wanted(guest):
            return held or self._choose(guest, kind), ()
        if held is not None and given:
            return held, given
        refused: Refused | None = None
        for found in self._places(guest, kind, held):
            try:
                return found, self.devices.choose(guest, found)
            except Refused as error:
                refused = error
        raise refused or self._nowhere(guest, "it has none")

    def _places(self, guest: Guest, kind: str, held: Placement | None) -> Iterator[Placement]:
        """Places for a guest with devices: the one that it holds, then those near devices that
        would do, then any. Raises Refused when there is none."""
        if held is not None:
            yield held
        near = self.devices.cells(guest)
        for cells in (*(frozenset((cell,)) for cell in sorted(near)), near):
            with contextlib.suppress(Refused):
                yield self._choose(guest, kind, cells)
        yield self._choose(guest, kind)

    def _nowhere(self, guest: Guest, reason: str) -> Refused:
        return Refused(f"Guest {guest.uuid} finds no place on host {self._host}: {reason}.",
                       now="Nothing was made on this host.",
                       next="The scheduler is told and may try another host.", code="no_room")

    def _choose(self, guest: Guest, kind: str, cells: frozenset[int] | None = None) -> Placement:
        """A place for the guest, on these host cells only if any are named."""
        wish, ground = topology.wish(guest), self._ground()
        if cells is not None:
            ground = replace(ground, cells=tuple(c for c in ground.cells if c.id in cells))
        others = [held for claim in self._claims()
                  if (claim.guest, claim.kind) != (guest.uuid, kind) for held in _held(claim)]
        if wish is not None and wish.dedicated and not ground.dedicated:
            raise Refused(
                f"Host {self._host} has no CPUs that a guest gets for itself.",
                now="Nothing was made on this host.",
                next="Set [compute] cpu_dedicated_set there, or choose another host.",
                code="no_room")
        try:
            assert wish is not None
            return place(wish, ground, Taken(others))
        except NoPlace as reason:
            raise self._nowhere(guest, str(reason)) from reason

    def _ground(self) -> Ground:
        shared, dedicated = self.sets()
        reserved = {
            (int(entry["node"]), int(entry["size"])): int(entry["count"])
            for entry in self._conf.reserved_huge_pages or ()}
        return Ground(
            self._facts().cells, shared, dedicated, reserved, self._conf.cpu_allocation_ratio,
            self._conf.ram_allocation_ratio,
            not self._conf.compute.packing_host_numa_cells_allocation_strategy)

    def recorded(self, guest: Guest, prim: Primitive | None) -> Placement | None:
        """The place that a guest's record tells (:func:`to_record`, or Nova's own); None where it
        is not what flavor and image ask for."""
        wish, cells = topology.wish(guest), {cell.id: cell for cell in self._facts().cells}
        told = data(prim).get("cells") or []
        if wish is None or len(told) != len(wish.cells):
            return None
        shared, _ = self.sets()
        placed = []
        for cell, each in zip(wish.cells, map(data, told), strict=True):
            host = cells.get(each["id"])
            if host is None:
                return None
            pins = {int(cpu): at for cpu, at in (each.get("cpu_pinning_raw") or {}).items()}
            loose = len(cell.cpus) > len(cell.dedicated)
            placed.append(Placed(cell, host.id, pins, tuple(sorted(host.cpus & shared))
                                 if loose else (), each.get("pagesize")))  # fmt: skip
        isolated = tuple(data(told[0]).get("cpuset_reserved") or ())
        found = Placement(tuple(placed), wish.policy, wish.threads, wish.emulator, isolated,
                          isolated, (), wish.realtime, wish.locked)  # fmt: skip
        if wish.threads == "isolate":
            found = replace(found, blocked=_siblings(found.held(), cells.values()))
        return found if found.fulfils(wish) else None

    # -- what the control plane is told -------------------------------------------------------
    def report(self) -> str | None:
        """The ComputeNode's numa_topology: NUMATopology as JSON, None for a host without cells."""
        cells, ground = self._facts().cells, self._ground()
        if not cells:
            return None
        placements = [held for claim in self._claims() for held in _held(claim)]
        told = [_cell(cell, ground, placements) for cell in cells]
        return json.dumps(make("NUMATopology", {"cells": told}))


def _siblings(cpus: Iterable[int], cells: Iterable[HostCell]) -> tuple[int, ...]:
    """The other CPUs of the cores that these are on."""
    held = set(cpus)
    return tuple(sorted({cpu for cell in cells for group in cell.siblings if group & held
                         for cpu in group} - held))  # fmt: skip


def _cell(cell: HostCell, ground: Ground, placements: list[Placement]) -> Primitive:
    taken = Taken(placements)
    usage = sum(each.cell.memory_mb for held in placements for each in held.cells
                if each.host == cell.id)
    return make("NUMACell", {
        "id": cell.id, "cpuset": sorted(cell.cpus & ground.shared),
        "pcpuset": sorted(cell.cpus & ground.dedicated), "memory": cell.memory_mb,
        "cpu_usage": taken.floating.get(cell.id, 0), "memory_usage": usage,
        "pinned_cpus": sorted(cell.cpus & taken.cpus),
        "siblings": [sorted(group) for group in cell.siblings],
        "mempages": [_pages(cell, size, ground, taken) for size in sorted(cell.pages)],
        "network_metadata": make("NetworkMetadata", {"physnets": [], "tunneled": False}),
        "socket": cell.socket})


def _pages(cell: HostCell, size: int, ground: Ground, taken: Taken) -> Primitive:
    used = taken.memory.get(cell.id, 0) * 1024 // size if size == SMALL_KB \
        else taken.pages.get((cell.id, size), 0)
    return make("NUMAPagesTopology", {
        "size_kb": size, "total": cell.pages[size], "used": used,
        "reserved": ground.reserved.get((cell.id, size), 0)})


def to_record(guest: Guest, placement: Placement | None) -> Primitive | None:
    """An Instance's numa_topology: cells have the host's numbers, as Nova's after its claim."""
    if placement is None:
        return None
    return make("InstanceNUMATopology", {
        "instance_uuid": guest.uuid, "emulator_threads_policy": placement.emulator_policy,
        "cells": [_guest_cell(each, placement, each is placement.cells[0])
                  for each in placement.cells]}, ())


def _guest_cell(each: Placed, placement: Placement, first: bool) -> Primitive:
    dedicated = set(each.cell.dedicated)
    return make("InstanceNUMACell", {
        "id": each.host, "cpuset": sorted(set(each.cell.cpus) - dedicated),
        "pcpuset": sorted(dedicated), "memory": each.cell.memory_mb, "pagesize": each.page_kb,
        "cpuset_reserved": list(placement.isolated) if first and placement.isolated else None,
        "cpu_topology": None,
        "cpu_pinning_raw": {str(guest): host for guest, host in sorted(each.pins.items())} or None,
        "cpu_policy": placement.policy, "cpu_thread_policy": placement.threads}, ())
