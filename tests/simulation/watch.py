"""What must be true: at every effect, after every step, and of a world at rest."""

from __future__ import annotations

from collections import Counter
from typing import Any

import sqlalchemy as sa

from compute.model import states
from compute.recovery.invariants import HAS_DISKS, check
from compute.recovery.observe import observe
from db.journal import rows
from tests.simulation.host import CONTEXT, FOREIGN, Host

KINDS = {"resources", "ports", "disks", "domain"}
MAY_STOP = (states.DELETING, states.POWERING_OFF)
ORDER = {rows.ACCEPTED: 0, rows.RUNNING: 1, rows.UNDOING: 2, rows.CONCLUDING: 3, rows.DONE: 4,
         rows.UNDONE: 4}
LOOKED_AT = [rows.operations.c[name] for name in (
    "id", "verb", "guest", "state", "active", "lock", "waits_for", "steps_done")]


class Violation(BaseException):
    """A promise was broken; nothing in the product may catch it."""


class Watch:
    """Looks over the shoulders of all agents.

    :param sim: the simulation.
    """

    def __init__(self, sim: Any):
        self.sim = sim
        self.switched_on: Counter[tuple[str, str]] = Counter()
        self.stopped_by_others: Counter[str] = Counter()
        self.may_be_off: set[str] = set()  # guests that somebody had a reason to leave stopped
        self._last: dict[tuple[str, str], tuple[str, int]] = {}

    # -- at an effect -------------------------------------------------------------------------
    def effect(self, host: Host, what: str, uuid: str, power: int | None) -> None:
        """An agent does something to a guest, whose power state is ``power`` until then."""
        fields = self.sim.control.fields(uuid)
        self.sim.log(f"{host.name}: {what} {uuid[:8]}")
        if uuid == FOREIGN:
            raise Violation(f"P3: {what} a domain that is not ours")
        if what == "on":
            self._on(host, uuid)
        elif what == "off":
            if self._tenants(host, fields) and not self._starting(host, uuid):
                raise Violation(f"P5: {uuid[:8]} is stopped and nobody asked for it")
        elif power == states.RUNNING:
            raise Violation(f"P2: {what} {uuid[:8]} while it runs")
        elif self._tenants(host, fields):
            raise Violation(f"P2: {what} {uuid[:8]}, which is {fields['vm_state']}")

    def _on(self, host: Host, uuid: str) -> None:
        for other in self.sim.hosts:
            if other is not host and uuid in other.running():
                raise Violation(f"P2: {uuid[:8]} runs on {other.name} and on {host.name}")
        with host.engine.connect() as connection:
            verb = connection.execute(sa.select(rows.operations.c.verb).where(
                rows.operations.c.lock == uuid)).scalar()
        self.switched_on[uuid, verb] += 1
        limit = self.sim.control.asked_on[uuid, verb] + self.stopped_by_others[uuid]
        if self.switched_on[uuid, verb] > limit:
            raise Violation(f"P4: a {verb} switches {uuid[:8]} on for the "
                            f"{self.switched_on[uuid, verb]}. time, asked for {limit} times")

    def _tenants(self, host: Host, fields: dict[str, Any]) -> bool:
        """Whether a guest is its tenant's, who asked for nothing that would stop it here."""
        task = fields.get("task_state")
        return (bool(fields) and not fields["deleted"] and fields["host"] == host.name
                and fields["vm_state"] in HAS_DISKS and task not in MAY_STOP
                and not (task or "").startswith("reboot"))

    def _starting(self, host: Host, uuid: str) -> bool:
        """A start may take back what it began."""
        return any(row.verb == "start" for row in host.journal.find(guest=uuid, active=True))

    def recorded_off(self, host: Host, uuid: str) -> None:
        """An agent has recorded a guest as stopped."""
        if uuid in host.running():
            raise Violation(f"{host.name} records {uuid[:8]} as stopped while it runs")

    # -- after a step -------------------------------------------------------------------------
    def journal(self, host: Host) -> None:
        """Locks have owners, and operations only go forward."""
        with host.engine.connect() as connection:
            found = connection.execute(sa.select(*LOOKED_AT).order_by(
                rows.operations.c.updated.desc()).limit(5)).all()  # what changed of late
        for row in found:
            name = f"{row.verb} {row.id[:4]} of {row.guest[:8]} on {host.name}"
            if row.active and row.lock is None and row.waits_for is None:
                raise Violation(f"{name} is active without a lock")
            if not row.active and row.lock is not None:
                raise Violation(f"{name} has ended and holds a lock")
            state, done = self._last.get((host.name, row.id), (rows.ACCEPTED, 0))
            self._last[host.name, row.id] = row.state, row.steps_done
            asked = rows.NEEDS_OPERATOR in (state, row.state)
            if state in rows.ENDED and row.state != state:
                raise Violation(f"{name} had ended as {state} and is {row.state}")
            if row.steps_done < done or (not asked and ORDER[row.state] < ORDER[state]):
                raise Violation(f"{name} went back from {state} {done} to {row.state} "
                                f"{row.steps_done}")

    # -- at rest ------------------------------------------------------------------------------
    def rest(self) -> list[str]:
        """All that is not as it must be when nothing goes on any more."""
        found = []
        for host in self.sim.hosts:
            found += [f"{host.name}: {line}" for line in self._host_at_rest(host)]
        for uuid in self.sim.control.live():
            fields = self.sim.control.fields(uuid)
            where = [h.name for h in self.sim.hosts if uuid in h.present()]
            has = fields["vm_state"] in HAS_DISKS
            if fields["vm_state"] == states.STOPPED and uuid not in self.may_be_off \
                    and not self._gave_up(uuid):
                found.append(f"P5: {uuid[:8]} is stopped and nobody asked for it")
            if (has and where != [fields["host"]]) or (not has and where not in (
                    [], [fields["host"]])):
                found.append(f"{uuid[:8]} is {fields['vm_state']} on {fields['host']}, and "
                             f"found on {where}")
        ports = {p.name for p in self.sim.ports.iterdir()}
        placed = set().union(*(h.present() for h in self.sim.hosts))
        if ports != placed:
            found.append(f"ports of {sorted(ports)}, guests {sorted(placed)}")
        return found

    def _gave_up(self, uuid: str) -> bool:
        """Whether an operation that would have let a guest run was undone."""
        return any(row.state == rows.UNDONE and row.verb in ("start", "reboot")
                   for host in self.sim.hosts for row in host.journal.find(guest=uuid))

    def _host_at_rest(self, host: Host) -> list[str]:
        seen = observe(host.manager.world, CONTEXT)
        found = [f"{f.rule}: {f.subject[:8]}: {f.what}" for f in check(seen)]
        found += [f"{row.verb} {row.id[:4]} of {row.guest[:8]} is {row.state}"
                  for row in host.journal.find(active=True)]
        found += [f"{row.verb} {row.id[:4]}: {row.error['what']}" for row in host.journal.find()
                  if (row.error or {}).get("code") == "internal"]
        claims: dict[str, set[str]] = {}
        for claim in host.journal.claims():
            claims.setdefault(claim.guest, set()).add(claim.kind)
        wanted = {uuid: KINDS for uuid in host.present()}
        if claims != wanted:
            found.append(f"claims {claims}, present {sorted(wanted)}")
        secrets = [p.name for p in (host.root / "secrets").iterdir()]
        if secrets:
            found.append(f"secrets left: {secrets}")
        if host.driver.power(FOREIGN) != states.RUNNING:
            found.append("P3: the domain that is not ours does not run any more")
        return found

    def nothing(self) -> list[str]:
        """All that is left although every guest was deleted."""
        return [f"{host.name}: {what} of {sorted(left)} left"
                for host in self.sim.hosts
                for what, left in (("domain or disks", host.present()),
                                   ("claims", {c.guest for c in host.journal.claims()}))
                if left]
