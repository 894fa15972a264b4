"""reconcile: observe, decide, and apply the verdicts through the engine.

The same code runs at start, after kill -9, on the hypervisor's events and on a slow timer.
"""

from __future__ import annotations

import logging
import pathlib
import threading
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

from compute.engine.world import Context
from compute.errors import MagnetarError, Refused
from compute.manager import Manager
from compute.model import mappings, states, wire
from compute.model.volume import Attached
from compute.recovery import decide
from compute.recovery.decide import Act, Verdict
from compute.recovery.observe import GuestFacts, Observation, observe
from compute.resources.tracker import MOVE
from compute.rpc.primitives import data
from compute.steps.attached import KIND
from db.journal import rows
from virt import devices

LOG = logging.getLogger(__name__)
LOST_AFTER = 20.0  # seconds a task_state stands without an operation before its cast counts as lost
PLACES = ("slot", "lease", "force")  # claims that only a live migration under way has
DEEDS = (Act.ADOPT, Act.FAIL, Act.REAP, Act.SYNC, Act.START, Act.THAW)
BOOT_ID = pathlib.Path("/proc/sys/kernel/random/boot_id")


class Reconciler:
    """Brings journal, hypervisor and control plane to agree."""

    def __init__(self, manager: Manager, context: Context, *, lost_after: float = LOST_AFTER):
        self.manager, self.world, self.context = manager, manager.world, context
        self.lost_after = lost_after
        self.verdicts: dict[str, Verdict] = {}
        self._tasks_seen: dict[tuple[str, str], float] = {}
        self._one_at_a_time = threading.Lock()

    # -- passes -------------------------------------------------------------------------------
    def resume(self) -> int:
        """At start: give every operation of the journal back to a worker, or undo it. Returns how
        many there were. An unknown fact makes an operation wait for the next pass."""
        active = self.world.journal.find(active=True)
        for row in active:
            self.world.journal.update(row.id, restarts=row.restarts + 1)
        self.world.secrets.sweep(self._active)
        if active or self._rebooted():
            self.run_pass()
        return len(active)

    def _active(self, operation: str) -> bool | None:
        row = self.world.journal.get(operation)
        return row.active if row is not None else None

    def run_pass(self) -> Observation:
        """One pass over all guests."""
        with self._one_at_a_time:
            running = set(self.manager.running())
            seen = observe(self.world, self.context)
            rebooted = self._rebooted()
            for facts in seen.guests.values():
                try:
                    self._one(facts, running, rebooted)
                except MagnetarError as error:
                    LOG.warning("Guest %s is left for the next pass: %s", facts.uuid, error)
            self._forget_tasks(seen)
            self.world.secrets.sweep(self._active)  # of operations that gave way, or were resolved
            if not seen.unknown and self.world.journal.fact("boot_id") != _boot_id():
                self.world.journal.set_fact("boot_id", _boot_id())  # last: killed, we look again
            return seen

    def judge(self, facts: GuestFacts, rebooted: bool = False) -> Verdict:
        """The verdict about one guest, without acting on it."""
        row = facts.operation
        if row is not None:
            committed = self.manager.operations[row.verb].committed(
                self.world.journal.steps(row.id))
            return decide.of_operation(row, committed, facts, rebooted=rebooted)
        return decide.of_guest(
            facts, rebooted=rebooted, resume=self.world.conf.resume_guests_state_on_host_boot,
            waited=self._waited(facts), thaw=self._may_thaw(facts))

    def _one(self, facts: GuestFacts, running: set[str], rebooted: bool) -> None:
        row = facts.operation
        at_rest = row is None and not facts.fields.get("task_state")
        if rebooted and not at_rest and decide.ran_before(facts):
            self.world.journal.claim(decide.BOOTED, facts.uuid, facts.uuid, "", {})
        if row is not None and row.id in running:
            return
        booted = any(claim.kind == decide.BOOTED for claim in facts.claims)
        verdict = self.judge(facts, rebooted or booted)
        if row is None and verdict.act in DEEDS and self._went_on(facts):
            return
        before = self.verdicts.get(facts.uuid)
        self.verdicts[facts.uuid] = verdict
        if verdict.act in (Act.REPORT, Act.LEAVE) and verdict != before:
            LOG.warning("Guest %s: %s", facts.uuid, verdict.reason)
        self._apply(facts, verdict)
        if row is None:
            self._let_go(facts)
        if booted and at_rest and verdict.act is not Act.WAIT:
            self.world.journal.release(guest=facts.uuid, kind=decide.BOOTED)

    def _let_go(self, facts: GuestFacts) -> None:
        """Room for a move that nobody makes any more: it was broken off with the other host."""
        fields = facts.fields
        held = any(claim.kind == MOVE for claim in facts.claims)
        if held and fields and fields.get("task_state") is None \
                and fields.get("vm_state") != states.RESIZED and not self._went_on(facts):
            LOG.warning("Guest %s does not move any more: the room for it is given back.",
                        facts.uuid)
            self.world.journal.release(guest=facts.uuid, kind=MOVE)

    # -- applying -----------------------------------------------------------------------------
    def _apply(self, facts: GuestFacts, verdict: Verdict) -> None:
        row = facts.operation
        if verdict.act in (Act.CONTINUE, Act.ROLLBACK) and row is not None:
            LOG.info("Operation %s (%s of %s): %s", row.id, row.verb, row.guest, verdict.reason)
            abort = {"abort": verdict.reason} if verdict.act is Act.ROLLBACK and not row.abort \
                else {}
            self.world.journal.update(row.id, verdict=verdict.reason, **abort)
            self.manager.start(self.world.journal.row(row.id))
        elif verdict.act in (Act.ADOPT, Act.REAP, Act.START, Act.THAW):
            self._accept(facts, verdict)
        elif verdict.act is Act.SYNC:
            self._save(facts, decide.power_changes(facts))
            LOG.info("Guest %s: %s", facts.uuid, verdict.reason)
        elif verdict.act is Act.FAIL:
            self._fail_build(facts, verdict)
        elif verdict.act is Act.GIVE_WAY and row is not None:
            if row.id in self.manager.running():  # accepted while this pass looked
                return
            LOG.warning("Operation %s (%s of %s) ends: %s", row.id, row.verb, row.guest,
                        verdict.reason)
            self.world.journal.update(row.id, state=rows.UNDONE, verdict=verdict.reason,
                                      message=verdict.reason)
            self.world.secrets.forget(row.id)
            for kind in PLACES:
                self.world.journal.release(guest=row.guest, kind=kind)
        elif verdict.act is Act.LEAVE and row is not None:
            self.manager.hand_over(row)

    def _accept(self, facts: GuestFacts, verdict: Verdict) -> None:
        LOG.warning("Guest %s: %s", facts.uuid, verdict.reason)
        args: dict[str, Any] = {"instance": facts.record.value or facts.elsewhere.value}
        if verdict.verb == "reap":
            args = {"instance": _stand_in(facts)}
        if verdict.act is Act.ADOPT:
            args.update(self.manager.operations[verdict.verb].adopted(facts.fields) or {})
        request_id = f"{verdict.row}-{uuid.uuid4()}"
        self.manager.accept(verdict.verb, facts.uuid, request_id, args, self.context)

    def _save(self, facts: GuestFacts, changes: Mapping[str, Any]) -> bool:
        task = facts.fields.get("task_state")
        try:
            self.world.conductor.save(self.context, facts.record.value, changes,
                                      expected_task_state=[task])
            return True
        except Refused as error:
            LOG.info("Guest %s changed meanwhile; the next pass looks again: %s",
                     facts.uuid, error)
            return False

    def _fail_build(self, facts: GuestFacts, verdict: Verdict) -> None:
        rebuild = verdict.row == "lost-rebuild"
        if not rebuild and (facts.domain.value is not None or facts.disks.value):
            LOG.warning("Guest %s: %s Its domain or disks are kept.", facts.uuid, verdict.reason)
        if not self._save(facts, {"vm_state": states.ERROR, "task_state": None}):
            return
        self.world.conductor.fault(self.context, facts.uuid, {
            "kind": "failed", "code": "lost_build", "what": verdict.reason,
            "now": "Nothing of it is continued.",
            "next": "Ask for the rebuild again, or for a hard reboot to go on as before."
            if rebuild else "Delete the guest and create it again."})

    # -- small memory -------------------------------------------------------------------------
    def _waited(self, facts: GuestFacts) -> bool:
        task = facts.fields.get("task_state")
        if task is None:
            return False
        first = self._tasks_seen.setdefault((facts.uuid, task), _since(facts))
        return self.world.clock.now() - first >= self.lost_after

    def _may_thaw(self, facts: GuestFacts) -> bool:
        """Whether a guest that QEMU paused may be let run once more: the journal has the tries."""
        domain = facts.domain.value
        if not self.world.conf.resume_paused_guests or domain is None \
                or domain.power_state != states.POWER_PAUSED:
            return False
        tries = [row.created for row in self.world.journal.find(guest=facts.uuid, limit=100)
                 if row.request_id.startswith("thaw-")]
        return decide.thaw_due(tries, self.world.clock.now())

    def _forget_tasks(self, seen: Observation) -> None:
        present = {(f.uuid, f.fields.get("task_state")) for f in seen.guests.values()}
        self._tasks_seen = {k: v for k, v in self._tasks_seen.items() if k in present}
        self.verdicts = {k: v for k, v in self.verdicts.items() if k in seen.guests}

    def _rebooted(self) -> bool:
        """Whether the host was booted since the last complete pass."""
        before = self.world.journal.fact("boot_id")
        return before is not None and before != _boot_id()

    def _went_on(self, facts: GuestFacts) -> bool:
        """Whether an operation on the guest began or ended since it was looked at: what was seen
        of it then may belong to before and to after."""
        return any(row.active or row.updated >= facts.domain.time
                   for row in self.world.journal.find(guest=facts.uuid, limit=10))


def _boot_id() -> str:
    return BOOT_ID.read_text().strip() if BOOT_ID.exists() else ""


def _since(facts: GuestFacts) -> float:
    """When the control plane last changed the record; the time of looking if it does not say."""
    text: Any = facts.fields.get("updated_at")
    try:
        return min(datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp(),
                   facts.record.time)
    except (AttributeError, ValueError):
        return facts.record.time


def _stand_in(facts: GuestFacts) -> dict[str, Any]:
    """As much of an Instance as removing needs, for a guest that has no record any more."""
    state = facts.domain.value
    return {
        "nova_object.name": "Instance", "nova_object.namespace": "nova",
        "nova_object.version": "2.8", "nova_object.data": {
            "uuid": facts.uuid, "display_name": state.name if state else facts.uuid}}


ADMIN = {"is_admin": True, "roles": ["admin"], "user_id": None, "project_id": None,
         "request_id": None, "read_deleted": "no"}


def restore_claims(world: Any, seen: Observation) -> None:
    """Claim again what guests of ours hold when the journal has no claim for them (it was lost, or
    the guest came from another agent)."""
    for facts in seen.guests.values():
        domain = facts.domain.value
        if domain is None or not domain.ours or facts.operation or not facts.fields.get("flavor"):
            continue
        kinds = {claim.kind for claim in facts.claims}
        try:
            held = _held(world, facts)
        except MagnetarError as error:
            LOG.warning("Guest %s cannot be claimed again: %s", facts.uuid, error)
            continue
        for kind, content in held.items():
            if kind not in kinds:
                world.journal.claim(kind, facts.uuid, facts.uuid, domain.operation, content)


def _devices(world: Any, facts: GuestFacts) -> tuple[str, ...]:
    """The host's devices that a guest without a claim has, as its domain says."""
    if any(claim.kind == "resources" for claim in facts.claims) \
            or not devices.wanted(wire.guest(facts.record.value)):
        return ()
    return world.driver.host_devices(facts.uuid)


def _held(world: Any, facts: GuestFacts) -> dict[str, Mapping[str, Any]]:
    """What a guest has to hold, by kind of claim. Raises Refused when its record is damaged."""
    domain = facts.domain.value
    held: dict[str, Mapping[str, Any]] = {
        "resources": world.inventory.held(wire.guest(facts.record.value),
                                          facts.fields.get("numa_topology"),
                                          _devices(world, facts)),
        "disks": {},
        "domain": {"generation": domain.generation, "name": domain.name}}
    if not any(claim.kind == "domain" for claim in facts.claims):
        volumes = [mappings.volume(data(prim)) for prim in mappings.of_volumes(
            world.conductor.bdms(ADMIN, facts.uuid)) if data(prim).get("connection_info")]
        if volumes:
            held[KIND] = {"volumes": [Attached(one).to_plain() for one in volumes]}
    ports = wire.nics(facts.fields)
    if ports:
        held["ports"] = {"nics": [asdict(nic) for nic in ports]}
    return held
