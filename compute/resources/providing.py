"""What this host tells Placement: its provider, inventory and traits; and the allocations of guests
kept true. The scheduler of a stock Nova chooses hosts by nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from compute.errors import MagnetarError, Refused
from compute.resources.tracker import HERE, MOVE, Tracker
from compute.rpc.primitives import data

LOG = logging.getLogger(__name__)
Context = Mapping[str, Any]
OURS = ("VCPU", "PCPU", "MEMORY_MB", "DISK_GB")
KINDS = {"vcpus": "VCPU", "pcpus": "PCPU", "memory_mb": "MEMORY_MB", "disk_gb": "DISK_GB"}
# Ends of a migration: the guest is on the other host, or where it was.
MOVED = ("completed", "confirmed", "done")
STAYED = ("error", "failed", "cancelled", "reverted")
DISABLED = "COMPUTE_STATUS_DISABLED"


class Providers(Protocol):
    """Placement; compute.services.placement implements it. Each method raises Refused, Retryable
    or Unknown."""

    def ensure(self, node: str, name: str) -> None: ...

    def set_inventory(self, node: str, wanted: Mapping[str, Mapping[str, Any]],
                      ours: Iterable[str]) -> bool: ...

    def set_traits(self, node: str, wanted: Iterable[str],
                   ours: Callable[[str], bool]) -> bool: ...

    def consumers(self, node: str) -> dict[str, dict[str, int]]: ...

    def held(self, consumer: str) -> dict[str, dict[str, int]]: ...

    def claim(self, consumer: str, node: str, resources: Mapping[str, int], project: str,
              user: str) -> bool: ...

    def release(self, consumer: str) -> None: ...

    def hand_over(self, consumer: str, other: str) -> bool: ...

    def leave(self, consumer: str, node: str) -> None: ...


class Provider:
    """This host as a provider of resources.

    :param providers: None where Placement is not used; then nothing is told.
    """

    def __init__(self, tracker: Tracker, conductor: Any, providers: Providers | None):
        self.tracker, self.conductor, self.providers = tracker, conductor, providers
        self._told: Any = None  # what was told last: node, inventory, traits

    def report(self, context: Context, all_of_it: bool = False) -> None:
        """Tell what there is, if it changed, and free what deleted guests held.

        :param all_of_it: look whether Placement still knows what it was told, and claim for guests
            of this host that hold nothing.
        """
        if self.providers is None or self.tracker.record is None:
            return
        node = data(self.tracker.record)["uuid"]
        wanted = (node, self.inventory(), self.traits())
        told, self._told = self._told, None  # as long as it is not known
        if all_of_it or wanted != told:
            self._tell(*wanted)
        self._settle(context, self.providers, node, all_of_it)
        self._told = wanted

    def _tell(self, node: str, inventory: Mapping[str, Any], traits: frozenset[str]) -> None:
        assert self.providers is not None
        self.providers.ensure(node, self.tracker.facts().hypervisor_hostname)
        self.providers.set_inventory(node, inventory, OURS)
        self.providers.set_traits(node, traits, _ours)

    def inventory(self) -> dict[str, dict[str, Any]]:
        """What there is, by resource class; what is reserved is not given to guests."""
        facts, conf = self.tracker.facts(), self.tracker.conf
        shared, dedicated = facts.vcpus, 0
        if conf.compute.cpu_shared_set or conf.compute.cpu_dedicated_set:
            shared, dedicated = (len(cpus) for cpus in self.tracker.places.sets())
        disk_reserved = -(-conf.reserved_host_disk_mb // 1024)
        rows = {
            "VCPU": (shared, conf.reserved_host_cpus, conf.cpu_allocation_ratio),
            "PCPU": (dedicated, 0, 1.0),
            "MEMORY_MB": (facts.memory_mb, conf.reserved_host_memory_mb, conf.ram_allocation_ratio),
            "DISK_GB": (facts.disk_gb, disk_reserved, conf.disk_allocation_ratio),
        }
        return {name: {"total": total, "reserved": min(reserved, total), "min_unit": 1,
                       "max_unit": total, "step_size": 1, "allocation_ratio": ratio}
                for name, (total, reserved, ratio) in rows.items() if total > 0}

    def traits(self) -> frozenset[str]:
        """What guests can have here; and whether the host takes any."""
        found = set(self.tracker.facts().traits)
        if self.tracker.journal.fact("enabled") is False:
            found.add(DISABLED)
        return frozenset(found)

    def _settle(self, context: Context, providers: Providers, node: str, heal: bool) -> None:
        there = providers.consumers(node)
        here = {claim.guest for claim in self.tracker.claims()}
        strangers = sorted(set(there) - here)
        for guest in sorted(self.conductor.deleted_among(context, strangers)):
            providers.release(guest)
            LOG.info("Guest %s is deleted; what it held of this host is free.", guest)
        self._end_moves(context, providers, node, sorted(set(strangers) & set(there)))
        for guest in sorted(self._resting() - set(there)) if heal else ():
            self._claim(context, providers, node, guest)

    def _end_moves(self, context: Context, providers: Providers, node: str,
                   strangers: list[str]) -> None:
        """While a guest moves, the migration holds the source's room and the guest itself the
        destination's. Once it has ended, free the former, or give it back to the guest that
        stayed."""
        if not strangers:
            return
        for move in self.conductor.migrations(context, {"uuid": strangers}):
            fields = data(move)
            if fields["status"] in MOVED:
                providers.release(fields["uuid"])
            elif fields["status"] in STAYED and self._stayed(context, fields["instance_uuid"]):
                providers.hand_over(fields["uuid"], fields["instance_uuid"])
        taken = self.conductor.migrations(context, {
            "source_compute": self.tracker.host, "migration_type": "evacuation",
            "status": list(MOVED)})
        gone = {data(move)["instance_uuid"] for move in taken} & set(strangers)
        arriving = {data(move)["instance_uuid"]
                    for move in self.conductor.moves_here(context, self.tracker.node)} \
            if gone else set()
        for guest in sorted(self.conductor.elsewhere(context, sorted(gone - arriving))):
            providers.leave(guest, node)
            LOG.info("Guest %s was evacuated; what it held of this host is free.", guest)

    def _stayed(self, context: Context, guest: str) -> bool:
        """Whether a guest rests on this host."""
        try:
            fields = data(self.conductor.instance(context, guest))
        except Refused:
            return False
        return fields.get("host") == self.tracker.host and guest in self._resting()

    def _resting(self) -> set[str]:
        """Guests that are here and not on their way: these hold what they have under their own
        id."""
        claims = self.tracker.claims()
        moving = {claim.guest for claim in claims if claim.kind == MOVE}
        busy = {row.guest for row in self.tracker.journal.find(active=True)}
        return {claim.guest for claim in claims if claim.kind == HERE} - moving - busy

    def _claim(self, context: Context, providers: Providers, node: str, guest: str) -> None:
        """Let a guest hold what it takes, if it is this host's and holds nothing anywhere."""
        try:
            fields = data(self.conductor.instance(context, guest))
            if fields.get("host") != self.tracker.host or fields.get("task_state") \
                    or providers.held(guest):
                return
            claim = next(c for c in self.tracker.claims() if c.guest == guest and c.kind == HERE)
            resources = {name: int(claim.data[kind]) for kind, name in KINDS.items()
                         if claim.data.get(kind)}
            if providers.claim(guest, node, resources, fields["project_id"], fields["user_id"]):
                LOG.warning("Guest %s held nothing at Placement; it holds %s now.", guest,
                            resources)
        except Refused as error:
            LOG.warning("Guest %s holds nothing at Placement, and could not be given it: %s",
                        guest, error)


def _ours(trait: str) -> bool:
    """Traits that an agent knows the truth of; the others are an operator's."""
    return trait.startswith(("COMPUTE_", "HW_CPU_"))


def tell(provider: Provider, context: Context, all_of_it: bool = False) -> None:
    """Report; Placement being away keeps nothing else from going on."""
    try:
        provider.report(context, all_of_it)
    except MagnetarError as error:
        LOG.warning("Placement was not told how this host is: %s", error)
