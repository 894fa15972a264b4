"""What must be true at every effect and after every step."""

from __future__ import annotations

from collections import Counter
from typing import Any

import sqlalchemy as sa

from compute.model import states
from compute.recovery.invariants import HAS_DISKS
from db.journal import rows
from tests.simulation.host import FOREIGN, Host

MAY_STOP = (states.DELETING, states.POWERING_OFF, states.SUSPENDING, states.SOFT_DELETING,
            states.RESIZE_MIGRATING, states.RESIZE_FINISH, states.RESIZE_REVERTING,
            states.RESCUING, states.UNRESCUING)
ORDER = {rows.ACCEPTED: 0, rows.RUNNING: 1, rows.UNDOING: 2, rows.CONCLUDING: 3, rows.DONE: 4,
         rows.UNDONE: 4}
LOOKED_AT = [rows.operations.c[name] for name in (
    "id", "verb", "guest", "state", "active", "lock", "waits_for", "steps_done")]


NEWEST = sa.select(*LOOKED_AT).order_by(rows.operations.c.updated.desc()).limit(5)


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
        elif what == "pause":
            if self._tenants(host, fields) and fields["task_state"] not in (
                    states.MIGRATING, states.PAUSING, states.UNPAUSING):  # the last one undone
                raise Violation(f"P5: {uuid[:8]} is paused and nobody asked for it")
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
        active = host.journal.find(guest=uuid, active=True)
        return any(row.verb in ("start", "restore") for row in active)

    def recorded_off(self, host: Host, uuid: str) -> None:
        """An agent has recorded a guest as stopped."""
        if uuid in host.running():
            raise Violation(f"{host.name} records {uuid[:8]} as stopped while it runs")

    def gone(self, host: Host, what: str, uuid: str) -> None:
        """Disks were taken away: of a guest that is its tenant's, the newest has to be left."""
        fields = self.sim.control.fields(uuid)
        if fields.get("deleted") or fields.get("vm_state") not in HAS_DISKS \
                or fields["task_state"] in (states.DELETING, states.REBUILDING):
            return
        left = host.driver.newest(uuid)
        # Who goes back to the former size or host gives up what was written since.
        reverts = fields["task_state"] in (states.RESIZE_REVERTING, states.RESIZE_FINISH)
        if left < 0 or (left < self.sim.fabric.written(uuid) and not reverts):
            raise Violation(f"P2: {what} {uuid[:8]} leaves no disk as new as what it wrote")

    # -- after a step -------------------------------------------------------------------------
    def fabric(self) -> None:
        """What hypervisors saw that never may be."""
        found = self.sim.fabric.violations()
        if found:
            raise Violation("P2: " + "; ".join(found))

    def journal(self, host: Host) -> None:
        """Locks have owners, and operations only go forward."""
        with host.engine.connect() as connection:
            found = connection.execute(NEWEST).all()  # what changed of late
        for row in found:
            name = f"{row.verb} {row.id[:4]} of {row.guest[:8]} on {host.name}"
            if row.active and row.lock is None and row.waits_for is None:
                raise Violation(f"{name} is active without a lock")
            if not row.active and row.lock is not None:
                raise Violation(f"{name} has ended and holds a lock")
            state, done = self._last.get((host.name, row.id), (rows.ACCEPTED, 0))
            self._last[host.name, row.id] = row.state, row.steps_done
            # An operator may turn it, and a guest that arrived while its move was undone.
            asked = rows.NEEDS_OPERATOR in (state, row.state) or (
                row.verb in ("live_out", "live_in")
                and (state, row.state) == (rows.UNDOING, rows.RUNNING))
            if state in rows.ENDED and row.state != state:
                raise Violation(f"{name} had ended as {state} and is {row.state}")
            if row.steps_done < done or (not asked and ORDER[row.state] < ORDER[state]):
                raise Violation(f"{name} went back from {state} {done} to {row.state} "
                                f"{row.steps_done}")
