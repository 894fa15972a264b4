"""Room on this host: what there is, what is claimed, and what the control plane is told.

Claims are rows of the journal, so they survive a restart. The limits are
``(total - reserved) * allocation_ratio`` for vCPUs, memory (MiB) and disk (GiB), as Nova's.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping
from typing import Any

from compute.errors import Refused
from compute.model.guest import Guest, HostFacts
from compute.model.numa import Placement
from compute.resources.places import Places, content_of, need
from compute.rpc.primitives import Primitive, data, make
from db.journal import Claim, Journal
from virt.driver import Driver

KINDS = ("vcpus", "pcpus", "memory_mb", "disk_gb")
# A guest that moves holds room twice: as it is here, and for its way in or back.
HERE, MOVE = "resources", "resources-move"
# What of a guest's other size its claim holds for a moment, and under which name.
SPARE = {"numa": "spare", "pci": "spare_pci"}
UNITS = {"vcpus": "vCPUs", "pcpus": "dedicated CPUs", "memory_mb": "MiB of memory",
         "disk_gb": "GiB of disk"}

# Codes with which builds fail that would fail on any host, or that nobody wants any more.
NOT_ITS_FAULT = frozenset({
    "image_unacceptable", "image_not_found", "flavor_unacceptable", "flavor_disk_too_small",
    "flavor_memory_too_small", "invalid_user_data", "invalid_files", "bad_request", "deadline",
    "aborted", "stale", "deleting", "guest_not_found"})


class Tracker:
    """Inventory and claims of one host.

    :param conductor: where the ComputeNode is saved.
    :param identity: the node's uuid (see compute.resources.node).
    """

    def __init__(self, conf: Any, host: str, journal: Journal, driver: Driver, conductor: Any):
        self.conf, self.host = conf, host
        self.journal, self.driver, self.conductor = journal, driver, conductor
        self.record: Primitive | None = None  # our ComputeNode as last saved
        self.node = ""
        self._facts: HostFacts | None = None
        self._saving = threading.Lock()
        self.places = Places(conf, host, journal, self.facts, self.claims)

    # -- what there is ------------------------------------------------------------------------
    def facts(self, refresh: bool = False) -> HostFacts:
        """The host as last looked at; looks again when asked to."""
        if self._facts is None or refresh:
            self._facts = self.driver.host_facts()
            self.node = self.node or self._facts.hypervisor_hostname
        return self._facts

    def limits(self) -> dict[str, float]:
        """How much may be promised of each kind."""
        facts, conf = self.facts(), self.conf
        shared, dedicated = facts.vcpus, 0
        if conf.compute.cpu_shared_set or conf.compute.cpu_dedicated_set:
            shared, dedicated = (len(cpus) for cpus in self.places.sets())
        return {
            "vcpus": (shared - conf.reserved_host_cpus) * conf.cpu_allocation_ratio,
            "pcpus": dedicated,
            "memory_mb": (facts.memory_mb - conf.reserved_host_memory_mb)
            * conf.ram_allocation_ratio,
            "disk_gb": (facts.disk_gb - conf.reserved_host_disk_mb / 1024)
            * conf.disk_allocation_ratio,
        }

    def claims(self) -> list[Claim]:
        """What guests hold of this host's room, oldest first."""
        found = [c for kind in (HERE, MOVE) for c in self.journal.claims(kind=kind)]
        return sorted(found, key=lambda c: (c.created, c.guest, c.kind))

    def used(self, before: str | None = None, moving: bool = False) -> dict[str, int]:
        """How much is claimed of each kind; or only what was claimed before one guest's claim (the
        one for its move if ``moving``), everything if it has none. CPUs that guests have for
        themselves are named where there are any."""
        total = dict.fromkeys(KINDS, 0)
        for claim in self.claims():
            if claim.guest == before and (claim.kind == MOVE) is moving:
                break
            for kind in KINDS:
                total[kind] += int(claim.data.get(kind, 0))
        return {kind: amount for kind, amount in total.items() if amount or kind != "pcpus"}

    def check(self, guest: str, need: Mapping[str, int], moving: bool = False) -> None:
        """See that a guest fits; when it has claimed already, beside all that claimed earlier, so
        that of several which claim at once the first ones stay.

        :param moving: it is the room for a move, beside what the guest may have here already.

        :raises Refused: code ``no_room``, with the figures of everything that does not fit.
        """
        limits, used = self.limits(), self.used(guest, moving)
        short = [
            f"{need[kind]} {UNITS[kind]} asked for, "
            f"{max(limits[kind] - used.get(kind, 0), 0):g} of "
            f"{limits[kind]:g} free"
            for kind in KINDS
            if need.get(kind) and used.get(kind, 0) + need[kind] > limits[kind]
        ]
        if short:
            raise Refused(f"Guest {guest} does not fit on host {self.host}: {'; '.join(short)}.",
                          now="Nothing was made on this host.",
                          next="The scheduler is told and may try another host.", code="no_room")

    def check_guest(self, guest: Guest, moving: bool = False) -> None:
        """See that a guest fits, its place on the host's cells included. Raises Refused."""
        self.check(guest.uuid, need(guest), moving)
        self.places.check(guest, MOVE if moving else HERE)

    def place(self, guest: Guest, operation: str, moving: bool = False) -> Placement | None:
        """Claim the guest's place on the host's cells, and the devices that its flavor asks for;
        None where it asks for no place."""
        return self.places.claim(guest, MOVE if moving else HERE, operation)

    def held(self, guest: Guest, topology: Primitive | None,
             devices: Iterable[str] = ()) -> dict[str, Any]:
        """Data of a claim for a guest that is here without one: what it takes, the place that its
        record tells, and the devices that its domain has (by address)."""
        return {**need(guest), **content_of(
            self.places.recorded(guest, topology), self.places.devices.recorded(guest, devices))}

    @property
    def address(self) -> str:
        """This host's address, as the control plane has it."""
        return self.facts().host_ip

    # -- what the control plane is told -------------------------------------------------------
    def compute_id(self, context: Mapping[str, Any]) -> int:
        """The ComputeNode row's id."""
        if self.record is None:
            raise Refused("This host has no ComputeNode record yet.", code="host_not_found")
        return data(self.record)["id"]

    def fields(self) -> dict[str, Any]:
        """The ComputeNode's fields as of now."""
        facts, used = self.facts(), self.used()
        guests = len({claim.guest for claim in self.claims()})
        memory_used = used["memory_mb"] + self.conf.reserved_host_memory_mb
        return {
            "vcpus": facts.vcpus, "memory_mb": facts.memory_mb, "local_gb": facts.disk_gb,
            "vcpus_used": used["vcpus"] + used.get("pcpus", 0), "memory_mb_used": memory_used,
            "local_gb_used": used["disk_gb"],
            "free_ram_mb": facts.memory_mb - memory_used,
            "free_disk_gb": facts.disk_gb - used["disk_gb"],
            "disk_available_least": facts.disk_free_gb,
            "running_vms": guests, "current_workload": 0,
            "hypervisor_type": facts.hypervisor_type,
            "hypervisor_version": facts.hypervisor_version,
            "hypervisor_hostname": facts.hypervisor_hostname, "host_ip": facts.host_ip,
            "cpu_info": json.dumps(dict(facts.cpu_info)), "numa_topology": self.places.report(),
            "cpu_allocation_ratio": self.conf.cpu_allocation_ratio,
            "ram_allocation_ratio": self.conf.ram_allocation_ratio,
            "disk_allocation_ratio": self.conf.disk_allocation_ratio,
            "pci_device_pools": self.places.devices.pools(),
            "supported_hv_specs": [
                make("HVSpec", {"arch": arch, "hv_type": hv, "vm_mode": mode})
                for arch, hv, mode in facts.supported],
            "metrics": "[]",
            "stats": {"failed_builds": str(self.journal.failed_since_done("spawn", NOT_ITS_FAULT)),
                      "num_instances": str(guests), **self._told(facts)},
        }

    @staticmethod
    def _told(facts: HostFacts) -> dict[str, str]:
        """What a ComputeNode has no column for: what the scheduler filters machine types by, where
        the disks are, which nobody can ask a lost host, and what guests can have here."""
        told = {"machine_types": ",".join(facts.machine_types), "storage": facts.storage,
                "traits": ",".join(facts.traits)}
        return {name: text for name, text in told.items() if text}

    def report(self, context: Mapping[str, Any], refresh: bool = False) -> bool:
        """Save the ComputeNode if anything changed. Returns whether it was saved."""
        with self._saving:
            if self.record is None:
                return False
            if refresh:
                self.facts(refresh=True)
            before = data(self.record)
            wanted = self.fields()
            changed = {key: value for key, value in wanted.items()
                       if _plain(before.get(key)) != _plain(value)}
            if not changed:
                return False
            self.record = self.conductor.save(context, self.record, changed)
            return True


def _plain(value: Any) -> Any:
    """A value without what differs between saying and hearing an object."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()
                if k not in ("nova_object.changes", "nova_object.version")}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return value


def new_record(tracker: Tracker, identity: str, service_id: int | None) -> Primitive:
    """The ComputeNode of a host that registers for the first time."""
    return make("ComputeNode", {**tracker.fields(), "uuid": identity, "host": tracker.host,
                                "service_id": service_id})
