"""observe: facts about every guest of this host, each yes, no or unknown.

One pass makes a constant number of calls however many guests there are: one bulk query of the
hypervisor, one listing of directories, one of the control plane, one of the journal.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from compute.engine.world import World
from compute.errors import MagnetarError
from compute.model import states
from compute.model.guest import GuestState
from compute.rpc.primitives import data
from db.journal import Claim, OperationRow

LOG = logging.getLogger(__name__)
# Statuses of an evacuation of which its former host has not heard.
UNCLEARED = ("accepted", "pre-migrating", "done")


@dataclass(frozen=True)
class Fact:
    """One thing that was looked at: what was seen, where and when; or why it could not be."""

    value: Any
    known: bool
    source: str
    time: float
    why: str = ""


@dataclass(frozen=True)
class GuestFacts:
    """What is known of one guest."""

    uuid: str
    domain: Fact  # GuestState, or None: the hypervisor does not know it
    disks: Fact  # bool
    record: Fact  # Instance primitive, or None: not on this host
    deleted: Fact  # bool: the control plane positively says deleted
    operation: OperationRow | None = None
    claims: tuple[Claim, ...] = ()
    # Instance primitive of a guest that the control plane has on another host
    elsewhere: Fact = Fact(None, False, "control plane", 0.0, "not asked")
    evacuated: Fact = Fact(None, False, "control plane", 0.0, "not asked")  # bool: away from here

    @property
    def fields(self) -> Mapping[str, Any]:
        """The control plane's record as a dict; empty if there is none."""
        return data(self.record.value) if self.record.value else {}


@dataclass(frozen=True)
class Observation:
    """All guests of a host at one time."""

    time: float
    guests: Mapping[str, GuestFacts]
    foreign: tuple[GuestState, ...] = ()
    unknown: tuple[str, ...] = field(default=())  # sources that did not answer, with the reason


def _look(world: World, source: str, look: Callable[[], Any]) -> Fact:
    now = world.clock.now()
    try:
        return Fact(look(), True, source, now)
    except MagnetarError as error:
        LOG.info("%s cannot be observed now: %s", source, error)
        return Fact(None, False, source, now, str(error))


def _evacuated(world: World, context: Mapping[str, Any]) -> set[str]:
    """Guests that were evacuated from this host while it was gone, and not cleared here yet."""
    return {data(moving)["instance_uuid"] for moving in world.conductor.migrations(context, {
        "source_compute": world.host, "migration_type": "evacuation",
        "status": list(UNCLEARED)})}


def observe(world: World, context: Mapping[str, Any]) -> Observation:
    """Look at the hypervisor, the disks, the control plane and the journal."""
    domains = _look(world, "hypervisor", world.driver.states)
    dirs = _look(world, "disks", lambda: set(world.driver.guest_dirs()))
    records = _look(world, "control plane", lambda: {
        data(p)["uuid"]: p for p in world.conductor.instances(context)})
    # The holder, not what waits for it; times do not tell, a clock may have gone back.
    operations = {row.guest: row for row in sorted(world.journal.find(active=True),
                                                   key=lambda row: row.lock is not None)}
    claims: dict[str, list[Claim]] = {}
    for claim in world.journal.claims():
        claims.setdefault(claim.guest, []).append(claim)
    ours = {u for u, s in (domains.value or {}).items() if s.ours}
    known = ours | (dirs.value or set()) | set(records.value or {}) | set(operations) | set(claims)
    strays = sorted(known - set(records.value or {})) if records.known else []
    deleted = _look(world, "control plane",
                    lambda: world.conductor.deleted_among(context, strays))
    elsewhere = _look(world, "control plane",
                      lambda: world.conductor.elsewhere(context, strays))
    rebuilt = [p for p in (records.value or {}).values()
               if data(p).get("task_state") in states.EVACUATING]
    evacuated = _look(world, "control plane", lambda: _evacuated(world, context)
                      if rebuilt or set(operations) & set(elsewhere.value or ()) else set())

    def of(fact: Fact, value: Any) -> Fact:
        return Fact(value if fact.known else None, fact.known, fact.source, fact.time, fact.why)

    guests = {
        uuid: GuestFacts(
            uuid=uuid,
            domain=of(domains, (domains.value or {}).get(uuid)),
            disks=of(dirs, uuid in (dirs.value or ())),
            record=of(records, (records.value or {}).get(uuid)),
            deleted=of(deleted if records.known else records,
                       uuid in (deleted.value or ())),
            elsewhere=of(elsewhere if records.known else records,
                         (elsewhere.value or {}).get(uuid)),
            evacuated=of(evacuated, uuid in (evacuated.value or ())),
            operation=operations.get(uuid), claims=tuple(claims.get(uuid, ())))
        for uuid in sorted(known)
    }
    foreign = tuple(s for u, s in sorted((domains.value or {}).items()) if not s.ours)
    unknown = tuple(f"{f.source}: {f.why}" for f in (domains, dirs, records) if not f.known)
    return Observation(world.clock.now(), guests, foreign, unknown)
