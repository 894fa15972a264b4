"""The operator's verbs about moves: plan one, see how one stands; and what other agents ask."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from compute.errors import MagnetarError, Refused
from compute.migration import checks, estimate
from compute.migration.planning import choose
from compute.model import states
from compute.model.move import Check
from compute.recovery.reconcile import Reconciler
from compute.rpc.primitives import Primitive, data
from compute.steps.live_source import position_of
from db.journal import OperationRow

NEWEST = 10  # operations of a guest that another agent is told of


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
        steps = self._world.journal.steps(row.id)
        strategy: dict[str, Any] = next(
            (s.outcome for s in steps if s.name == "strategy" and s.outcome), {})
        sample = self._world.transfers.get(guest) or {}
        return {
            "guest": guest, "operation": row.id, "verb": row.verb, "state": row.state,
            "step": row.step, "phase": sample.get("phase") or row.step or "queue",
            "destination": row.request["args"].get("dest"),
            "strategy": strategy.get("strategy"), "message": row.message,
            "queue_position": position_of(self._world, guest) if row.step == "queue" else 0,
            **sample,
        }

    def plan_live_migrate(self, guest: str, host: str | None = None,
                          block: bool | None = None) -> dict[str, Any]:
        """Whether and how a guest could move to a host, and how long it would take. Measures how
        fast it writes memory, which takes a second, and changes nothing.

        :raises Refused: code ``guest_not_found``.
        """
        world, context = self._world, self._reconciler.context
        instance = self._instance(guest)
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
        model = checks.full_guest(world, context, instance)
        choice, facts = choose(world, model, host or "", size, paused=paused, measure=True)
        said = estimate.predict(choice.strategy, memory=facts.memory, bandwidth=facts.bandwidth,
                                dirty_rate=facts.dirty_rate, disks=size, budget_ms=facts.budget_ms)
        return {
            "guest": uuid, "source": world.host, "destination": host,
            "strategy": choice.strategy, "reason": choice.reason,
            "checks": checks.to_plain(listed, world.host), "verdict": _verdict(listed, host),
            "shared_storage": shared, "copies": copies, "copy_bytes": size,
            "memory_bytes": facts.memory, "dirty_rate": facts.dirty_rate,
            "bandwidth": facts.bandwidth, "seconds": said.seconds,
            "downtime_ms": said.downtime_ms, "converges": said.converges,
            "estimate": said.reason,
        }

    def _instance(self, guest: str) -> Primitive:
        for prim in self._world.conductor.instances(self._reconciler.context):
            if guest in (data(prim)["uuid"], data(prim).get("display_name")):
                return prim
        raise Refused(f"Guest {guest} is not on host {self._world.host}.",
                      now="Nothing was changed.", next="'magnetar server list' shows the hosts.",
                      code="guest_not_found")


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
