"""The operator's verbs about moves: plan one, see how one stands; and what other agents ask."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from compute.engine.world import World
from compute.errors import MagnetarError, Refused
from compute.migration import checks, estimate
from compute.migration.planning import choose
from compute.migration.policy import Limits
from compute.migration.terms import TUNED, Asked, Terms, tuned
from compute.migration.trend import rate
from compute.model import states
from compute.model.move import Check
from compute.recovery.reconcile import Reconciler
from compute.rpc.primitives import Primitive, data
from compute.steps.live_source import asked_of, position_of
from db.journal import OperationRow, rows

NEWEST = 10  # operations of a guest that another agent is told of
ASSUMING = (f" No migration to that host was seen yet: {rate(estimate.ASSUMED)} are assumed, as "
            "over 1 Gbit/s.")


class MoveVerbs:
    """What an operator or another agent may ask of one agent about moves."""

    def __init__(self, reconciler: Reconciler):
        self._reconciler = reconciler
        self._world = reconciler.world

    # -- what other agents ask ----------------------------------------------------------------
    def peer_look(self, guest: str) -> dict[str, Any]:
        """What this host has of a guest: see compute.engine.world.PeerView."""
        driver = self._world.driver
        state = driver.state(guest)
        return {
            "domain": asdict(state) if state else None, "disks": bool(driver.disks(guest)),
            "aside": driver.aside_disks(guest),
            "operations": [_operation(row) for row in
                           self._world.journal.find(guest=guest, limit=NEWEST)],
        }

    def peer_storage(self) -> str | None:
        """An id of the storage that this host keeps disks on; equal where it is shared."""
        return self._world.driver.incoming_facts().get("storage")

    def peer_check(self, instance: Primitive, outgoing: dict[str, Any]) -> dict[str, Any]:
        """What this host says about taking a guest; changes nothing."""
        found = checks.at_destination(self._world, self._reconciler.context, instance, outgoing)
        return {"checks": checks.to_plain(found, self._world.host),
                "incoming": dict(self._world.driver.incoming_facts()),
                "shared": checks.shares(self._world, outgoing)}

    def peer_console(self, guest: str, generation: int, console: str) -> None:
        """What a guest wrote to its console until it came here, packed; it replaces what came
        along with it.

        :param generation: which the guest got when it came; with a later one it has been elsewhere
            since, and this log is an old one.
        :raises Refused: code ``stale``, ``guest_not_found``.
        """
        claims = self._world.journal.claims(kind="domain", guest=guest)
        if [claim.data.get("generation") for claim in claims] != [generation]:
            raise Refused(f"Guest {guest} is not on host {self._world.host} as it came with "
                          f"generation {generation}.", now="Nothing was changed.", code="stale")
        self._world.driver.keep_console(guest, console)

    # -- what operators ask -------------------------------------------------------------------
    def migration_progress(self, guest: str) -> dict[str, Any] | None:
        """How a migration out of this host stands; None when there is none."""
        active = [row for row in self._world.journal.find(guest=guest, active=True)
                  if row.verb in ("live_out", "resize_out", "resize_in")]
        if not active:
            return None
        row = active[0]
        strategy = _strategy(self._world, row)
        sample = self._world.transfers.get(guest) or {}
        return {
            "guest": guest, "operation": row.id, "verb": row.verb, "state": row.state,
            "step": row.step, "phase": sample.get("phase") or row.step or "queue",
            "destination": row.request["args"].get("dest"),
            "strategy": strategy.get("strategy"), "message": row.message,
            "queue_position": position_of(self._world, guest) if row.step == "queue" else 0,
            **terms_of(self._world, row), **sample,
        }

    def migration_options(self, guest: str, strategy: str | None = None,
                          bandwidth: int | None = None, max_pause: int | None = None,
                          ) -> dict[str, Any]:
        """What would be in force for a migration of a guest away from here if this was asked for
        instead of this host's options (see compute.migration.terms). Changes nothing.

        :raises Refused: it makes no sense, or is not permitted here; code ``guest_not_found``.
        """
        asked = Asked.of({"strategy": strategy, "bandwidth": bandwidth, "max_pause": max_pause})
        return asdict(self._terms(self._instance(guest), asked))

    def _terms(self, instance: Primitive, asked: Asked) -> Terms:
        model = checks.full_guest(self._world, self._reconciler.context, instance)
        return Terms.of(self._world.conf, model, asked)

    def migration_set(self, guest: str, bandwidth: int | None = None,
                      max_pause: int | None = None) -> dict[str, Any]:
        """Change a migration away from here while it goes on, or waits to begin: MiB/s (0: no
        limit) and the longest pause in ms. Its monitor does it at its next look. Returns what is
        in force then, as migration_progress tells it.

        :raises Refused: code ``bad_value``, ``pause_promised``, ``no_migration``, ``too_late``.
        """
        later = Asked.of({"bandwidth": bandwidth, "max_pause": max_pause})
        if later == Asked():
            raise Refused("Neither a bandwidth nor a longest pause was named.", code="bad_value",
                          now="Nothing was changed.", next="Name one of them.")
        if self._world.journal.find(guest=guest, active=True):
            self._changeable(guest)  # at its end its record is the other host's already
        instance = self._instance(guest)
        uuid = data(instance)["uuid"]
        self._terms(instance, later)
        row, journal = self._changeable(uuid), self._world.journal
        before = [claim for claim in journal.claims(kind=TUNED, guest=uuid)
                  if claim.operation == row.id]
        asked = Asked.of(before[0].data if before else {}).changed(later)
        journal.claim(TUNED, uuid, uuid, row.id, asked.to_plain())
        try:
            row = self._changeable(uuid)
        except Refused:  # it ended meanwhile, and may have tidied up already
            journal.release(guest=uuid, kind=TUNED)
            raise
        self._reconciler.manager.wake(uuid)
        return terms_of(self._world, row)

    def _changeable(self, uuid: str) -> OperationRow:
        """The operation that moves a guest away, while there is something to change about it."""
        journal = self._world.journal
        for row in journal.find(guest=uuid, active=True):
            if row.verb != "live_out":
                continue
            if row.state not in (rows.ACCEPTED, rows.RUNNING) \
                    or self._reconciler.manager.operations[row.verb].committed(
                        journal.steps(row.id)):
                raise Refused(f"The migration of guest {uuid} is at its end ({row.step}).",
                              now="Nothing was changed.", code="too_late",
                              next=f"See how it ends with 'magnetar explain {uuid}'.")
            return row
        raise Refused(f"Guest {uuid} is not being moved away from here while it runs.",
                      now="Nothing was changed.", code="no_migration",
                      next="'magnetar migration list' shows what is on its way.")

    def plan_live_migrate(self, guest: str, host: str | None = None,
                          block: bool | None = None, strategy: str | None = None,
                          bandwidth: int | None = None, max_pause: int | None = None,
                          ) -> dict[str, Any]:
        """Whether and how a guest could move to a host, and how long it would take. Measures how
        fast it writes memory, which takes a second, and changes nothing.

        :param strategy: with ``bandwidth`` and ``max_pause``: as for :meth:`migration_options`.
        :raises Refused: code ``guest_not_found``, and as :meth:`migration_options`.
        """
        world, context = self._world, self._reconciler.context
        asked = Asked.of({"strategy": strategy, "bandwidth": bandwidth, "max_pause": max_pause})
        instance = self._instance(guest)
        model = checks.full_guest(world, context, instance)
        terms = Terms.of(world.conf, model, asked)
        uuid = data(instance)["uuid"]
        outgoing = dict(world.driver.outgoing(uuid))
        listed: list[Check] = []
        shared, incoming = None, None
        if host is not None:
            try:
                answer = world.peers.ask(host, "peer_check", instance=instance, outgoing=outgoing,
                                         seconds=60)
                listed, incoming = checks.from_plain(answer["checks"]), answer["incoming"]
                shared = answer["shared"]
            except MagnetarError as error:
                listed = checks.told_as_checks(error, host)
        if incoming is not None:
            found = world.driver.check_outgoing(uuid, incoming)
            listed = [*checks.from_plain(checks.to_plain(found, world.host)), *listed,
                      *checks.block_wanted(block, bool(shared))]
        copies = [] if shared else [d["target"] for d in outgoing["disks"]
                                    if d.get("role") != "config"]
        size = sum(int(d.get("allocated") or d["size"]) for d in outgoing["disks"]
                   if d["target"] in copies)
        state = world.driver.state(uuid)
        paused = state is not None and state.power_state == states.POWER_PAUSED
        choice, facts = choose(world, model, host or "", size, terms, paused=paused, measure=True)
        said = estimate.predict(
            choice.strategy, memory=facts.memory, bandwidth=facts.bandwidth or estimate.ASSUMED,
            dirty_rate=facts.dirty_rate, disks=size, budget_ms=facts.budget_ms)
        assumed = "" if facts.bandwidth else ASSUMING
        return {
            "guest": uuid, "source": world.host, "destination": host,
            "strategy": choice.strategy, "reason": choice.reason,
            "checks": checks.to_plain(listed, world.host), "verdict": _verdict(listed, host),
            "shared_storage": shared, "copies": copies, "copy_bytes": size,
            "memory_bytes": facts.memory, "dirty_rate": facts.dirty_rate,
            "bandwidth": facts.bandwidth, "bandwidth_limit": terms.bandwidth,
            "max_pause": terms.max_pause, "seconds": said.seconds,
            "downtime_ms": said.downtime_ms, "converges": said.converges,
            "estimate": said.reason + assumed,
        }

    def _instance(self, guest: str) -> Primitive:
        for prim in self._world.conductor.instances(self._reconciler.context):
            if guest in (data(prim)["uuid"], data(prim).get("display_name")):
                return prim
        raise Refused(f"Guest {guest} is not on host {self._world.host}.",
                      now="Nothing was changed.", next="'magnetar server list' shows the hosts.",
                      code="guest_not_found")


def _strategy(world: World, row: OperationRow) -> dict[str, Any]:
    """What the step ``strategy`` of a migration decided; empty before it."""
    return next((step.outcome for step in world.journal.steps(row.id)
                 if step.name == "strategy" and step.outcome), {})


def is_leaving(row: OperationRow) -> bool:
    """Whether an operation moves a guest away while it runs, and has not ended."""
    return row.verb == "live_out" and row.active


def in_force(world: World, row: OperationRow) -> dict[str, Any]:
    """How a live migration goes on, for people."""
    decided = _strategy(world, row)
    return {"destination": row.request["args"].get("dest"), "strategy": decided.get("strategy"),
            "reason": decided.get("reason"), **terms_of(world, row)}


def terms_of(world: World, row: OperationRow) -> dict[str, Any]:
    """What is in force for a live migration, as far as it is decided: ``bandwidth_limit`` in
    MiB/s, 0 without one, and ``max_pause`` in ms."""
    if row.verb != "live_out":
        return {}
    claims = [claim for claim in world.journal.claims(guest=row.guest)
              if claim.operation == row.id]
    decided = _strategy(world, row).get("limits")
    if decided:
        limits = tuned(Limits(**decided), claims)
        return {"bandwidth_limit": limits.bandwidth, "max_pause": limits.budget_ms}
    asked = asked_of(row.request["args"])
    for claim in claims:
        asked = asked.changed(Asked.of(claim.data)) if claim.kind == TUNED else asked
    told = {"bandwidth_limit": asked.bandwidth, "max_pause": asked.max_pause}
    return {name: value for name, value in told.items() if value is not None}


def _verdict(listed: list[Check], host: str | None) -> str:
    if any(check.ok is False for check in listed):
        return "cannot"
    unknown = host is None or any(c.name == "reachable" and c.ok is None for c in listed)
    return "uncertain" if unknown else "can"


def _operation(row: OperationRow) -> dict[str, Any]:
    migration = row.request.get("args", {}).get("migration")
    moving = data(migration).get("uuid") if isinstance(migration, dict) else None
    if moving is None and row.verb == "live_in":
        moving = json.loads(row.request["args"]["disk"]).get("migration")
    return {"id": row.id, "verb": row.verb, "state": row.state, "step": row.step,
            "active": row.active, "request_id": row.request_id, "migration": moving}
