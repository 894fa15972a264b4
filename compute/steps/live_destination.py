"""lease, ports, disks, arrival: the destination's half of a live migration.

Everything that is made here before the guest arrives is a lease. It is renewed while the source
says that its half goes on, and ends when the source says that it does not, or says nothing for too
long; then it is undone here, unless the guest is here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from compute.engine.run import Run
from compute.engine.step import Probe, Step
from compute.errors import (
    Aborted,
    Failed,
    MagnetarError,
    NeedsOperator,
    Refused,
    Turned,
    Unknown,
)
from compute.migration import truth
from compute.migration.truth import HERE, Act, End, end_of
from compute.model import states
from compute.model.guest import CachedImage, GuestState
from compute.rpc.primitives import clean, data
from compute.steps.attached import with_volumes
from compute.steps.claim import need, placement_of, room_of, told_place
from compute.steps.disks import Image, remove_disks
from compute.steps.domain import GENERATION, remove_domain
from compute.steps.ports import nics_of
from compute.steps.record import FOR_EVER, publish, reread
from compute.steps.serial import PORT, serial_port

LOST_SECONDS = 20.0  # in post-copy, after the source's QEMU has ended, until memory counts as lost
STILL_SECONDS = 30.0  # how long a guest that is not sent any more may stay half received


def told(run: Run) -> dict[str, Any]:
    """What the source told with the request."""
    return json.loads(run.request["args"]["disk"])


def outgoing_of(run: Run) -> dict[str, Any]:
    """The source's facts, with what the journal must not hold: config drive and console."""
    outgoing = told(run)["outgoing"]
    kept = run.world.secrets.load(run.row.id, "guest").get("contents") or {}
    if kept.get("console"):
        outgoing["console"] = kept["console"]
    for disk in outgoing["disks"]:
        if disk["target"] in (kept.get("disks") or {}):
            disk["content"] = kept["disks"][disk["target"]]
    return outgoing


def source_of(run: Run) -> str:
    """The host that the guest comes from."""
    return str(data(run.request["args"]["instance"])["host"])


class Expected(Step):
    """admission: the guest is at the source, and is to move."""

    name = "admission"
    attempts = FOR_EVER

    def do(self, run: Run) -> None:
        run.instance = run.world.conductor.instance(run.context, run.row.guest)
        fields = data(run.instance)
        if fields.get("task_state") != states.MIGRATING or fields.get("host") == run.world.host:
            raise Refused(
                f"Guest {run.row.guest} is not on its way from {source_of(run)} to this host: its "
                f"task is {fields.get('task_state')}, its host {fields.get('host')}.",
                now="Nothing was done.", code="stale")


class Lease(Step):
    """lease: room on this host, as long as the source goes on."""

    name = "lease"

    def claims(self, run: Run) -> list:
        if not self.arrived(run):  # what is here cannot be sent away for want of room
            run.world.inventory.check_guest(run.guest)
        return [("resources", run.row.guest, room_of(run, run.guest)),
                ("lease", run.row.guest, {"source": source_of(run),
                                          "migration": told(run).get("migration")})]

    def arrived(self, run: Run) -> bool:
        return end_of(run.world.driver.state(run.row.guest), source=False) in HERE

    def do(self, run: Run) -> None:
        if not self.arrived(run):
            run.world.inventory.check(run.row.guest, need(run.guest))
            run.world.inventory.place(run.guest, run.row.id)

    def undo(self, run: Run, kept: Mapping[str, Any]) -> None:
        for kind in ("resources", "lease"):
            run.world.journal.release(guest=run.row.guest, kind=kind)


class PortsHere(Step):
    """ports: the networks of the guest's NICs are here, and its addresses told to them."""

    name = "ports"

    def claims(self, run: Run) -> list:
        return [("ports", run.row.guest, {"nics": [asdict(nic) for nic in run.guest.nics]})] \
            if run.guest.nics else []

    def do(self, run: Run) -> None:
        for nic in run.guest.nics:
            run.world.driver.plug(run.guest, nic)
            if nic.kind == "network":
                for address in nic.addresses:
                    run.world.driver.reserve_address(
                        nic.source, nic.mac, address.address, run.guest.hostname)

    def undo(self, run: Run, kept: Mapping[str, Any]) -> None:
        must_be_absent(run)
        for nic in nics_of(run):
            run.world.driver.unplug(run.row.guest, nic)
            if nic.kind == "network":
                run.world.driver.release_address(nic.source, nic.mac)
        run.world.journal.release(guest=run.row.guest, kind="ports")


class DisksHere(Step):
    """disks: the base in the cache, and disks for libvirt to fill, unless both hosts share them."""

    name = "disks"

    def claims(self, run: Run) -> list:
        return [("disks", run.row.guest, {"arriving": True})]

    def before(self, run: Run) -> Mapping[str, Any]:
        return {"shared": self.shared(run)}

    @staticmethod
    def shared(run: Run) -> bool:
        """Whether the source's disks are on storage that this host sees as well."""
        theirs = told(run)["outgoing"].get("storage")
        return theirs is not None and theirs == run.world.driver.incoming_facts().get("storage")

    def do(self, run: Run) -> dict[str, Any]:
        outgoing = outgoing_of(run)
        base = None
        if any(disk.get("backing_image") for disk in outgoing["disks"]) and not self.shared(run):
            base = CachedImage(**(Image().do(run) or {}))
        guest = replace(with_volumes(run), placement=placement_of(run, run.guest),
                        serial_port=serial_port(run))
        return dict(run.world.driver.prepare_incoming(guest, outgoing, base))

    def undo(self, run: Run, kept: Mapping[str, Any]) -> None:
        must_be_absent(run)
        run.world.journal.release(guest=run.row.guest, kind=PORT)
        if kept.get("shared"):  # they are the source's
            run.world.journal.release(guest=run.row.guest, kind="disks")
        else:
            remove_disks(run)


def must_be_absent(run: Run) -> None:
    """Nothing is taken from under a guest that the hypervisor knows.

    :raises Turned: it has come after all.
    :raises Unknown: it is half received.
    """
    found = run.world.driver.state(run.row.guest)
    if end_of(found, source=False) in HERE:
        raise Turned(f"Guest {run.row.guest} has come after all.")
    if found is not None:
        raise Unknown(f"Guest {run.row.guest} is {end_of(found, source=False).value} here while "
                      "its arrival is undone.", code="still_here")


class Arrival(Step):
    """arrival: wait until the guest is here, or will not come any more."""

    name = "arrival"
    decides = True
    attempts = FOR_EVER

    def probe(self, run: Run) -> Probe:
        return Probe.NO  # waiting again is harmless

    def do(self, run: Run) -> dict[str, Any]:
        run.say(f"waits for the guest from host {source_of(run)}")
        self.heard = self.whole = run.world.clock.now()
        while not run.wait(lambda: self.settled(run), 5, heed=False):
            pass
        state = run.world.driver.state(run.row.guest)
        return {"power_state": state.power_state if state else states.NOSTATE,
                "lost": state is not None and state.reason.startswith("postcopy")}

    def settled(self, run: Run) -> bool:
        """True when the guest is here for good; raises when it will not come."""
        if self.runs(run.world.driver.state(run.row.guest)):
            return True
        source, active = self.source(run)
        # Looked at last: it may have come while the source was asked.
        state = run.world.driver.state(run.row.guest)
        here = end_of(state, source=False)
        if self.runs(state):
            return True
        if source is not End.UNKNOWN:
            self.heard = run.world.clock.now()
        silent = run.world.clock.now() - self.heard
        if here is End.ABSENT:
            waits = silent < run.world.conf.migration_lease_seconds \
                if source is End.UNKNOWN else active and not run.signals.abort
            if waits and not (source in (End.OFF, End.ABSENT) and evacuated(run)):
                return False
            self.gives_up(run, silent)
        if state is not None and state.reason == "postcopy_failed" \
                and silent > run.world.conf.migration_lease_seconds:
            raise NeedsOperator(
                f"Guest {run.row.guest} runs here without the memory that host {source_of(run)} "
                f"still has, and that host is silent for {silent:.0f} s.",
                now="The guest stands still where it touches that memory; nothing is changed.",
                next="Bring the host or the link back, which continues the migration, then: "
                     f"magnetar op resolve {run.row.id} --as retry. If it is gone for good, "
                     f"magnetar server reboot --hard {run.row.guest} loses that memory.",
                code="postcopy_broken")
        if self.lost(run, state, source):
            return True
        judgement = truth.judge(source, here)
        if judgement.act is Act.DONE and not (state is not None and state.job):
            return True
        if judgement.act is Act.UNDONE and not active:  # it died here: only its definition is left
            self.gives_up(run, silent)
        if judgement.act is Act.STOP and not active:
            self.stop(run)
        if judgement.act is Act.OPERATOR:
            raise NeedsOperator(
                f"Guest {run.row.guest}: {judgement.reason}",
                now="Nothing is changed on either host.",
                next=f"Look at 'virsh domstate --reason {run.row.guest}' here and on "
                     f"{source_of(run)}, stop the copy that is wrong, then: "
                     f"magnetar op resolve {run.row.id} --as retry",
                code=f"move_{judgement.row}")
        return False

    @staticmethod
    def runs(state: GuestState | None) -> bool:
        """Whether the guest is here whole, which needs no other end's word."""
        return end_of(state, source=False) is End.RUNNING and state is not None \
            and not state.job and state.reason != "postcopy_failed"

    def undo(self, run: Run, kept: Mapping[str, Any]) -> None:
        here = end_of(run.world.driver.state(run.row.guest), source=False)
        if here is End.OFF and truth.judge(self.source(run)[0], here).act is Act.UNDONE:
            remove_domain(run)
        must_be_absent(run)

    def lost(self, run: Run, state: GuestState | None, source: End) -> bool:
        """Whether the source's QEMU died with memory that the guest misses here. QEMU says so, or
        says nothing any more while it waits for that memory."""
        now = run.world.clock.now()
        if state is None or not state.reason.startswith("postcopy") \
                or source not in (End.OFF, End.ABSENT):
            self.whole = now
            return False
        return state.reason == "postcopy_failed" or \
            source is End.OFF and now - self.whole > LOST_SECONDS

    def source(self, run: Run) -> tuple[End, bool]:
        """The source's end, and whether its half goes on."""
        try:
            view = run.world.peers.look(source_of(run), run.row.guest)
        except MagnetarError:
            return End.UNKNOWN, True
        moving = told(run).get("migration")
        active = any(op["migration"] == moving and op["verb"] == "live_out" and op["active"]
                     for op in view.operations)
        return end_of(view.domain, source=True), active

    def gives_up(self, run: Run, silent: float) -> None:
        """Nothing of the guest runs here, and the source's half has ended or is silent."""
        if run.signals.abort:
            raise Aborted(f"The source took the migration back: {run.signals.abort}.")
        raise Failed(
            f"Guest {run.row.guest} did not come: its host {source_of(run)} "
            + (f"is silent for {silent:.0f} s." if silent >= 1
               else "was lost, and it is evacuated." if evacuated(run)
               else "has ended the migration."),
            now="What was prepared here is undone.", code="lease_over")

    def stop(self, run: Run) -> None:
        """The source has the guest and sends nothing: what is half here is stopped. libvirt does so
        itself when it notices that the other end is gone, so it gets time to."""
        if not run.wait(lambda: run.world.driver.state(run.row.guest) is None, STILL_SECONDS,
                        heed=False):
            run.world.driver.power_off(run.row.guest)


def evacuated(run: Run) -> bool:
    """Whether the guest is started anew after the loss of its host, whose half waits for that: both
    halves would wait, and the evacuation for this one if it is to come here."""
    return reread(run) and data(run.instance).get("task_state") in states.EVACUATING


class Arrived(Step):
    """domain: the guest's definition and disks are this host's."""

    name = "domain"
    attempts = FOR_EVER

    def claims(self, run: Run) -> list:
        return [("domain", run.row.guest, {"generation": int(told(run)["generation"]),
                                           "name": run.guest.name})]

    def do(self, run: Run) -> None:
        run.world.driver.arrived(run.guest)
        if (run.outcome("arrival") or {}).get("lost"):
            # It stands still for ever: as if its host had failed. Its disks here are whole.
            run.world.driver.power_off(run.row.guest)
        run.world.journal.claim("disks", run.row.guest, run.row.guest, run.row.id, {})
        run.world.journal.release(guest=run.row.guest, kind="lease")
        run.world.networks.bind(run.context, run.row.guest, run.world.host)
        fields = data(run.request["args"]["instance"])
        found = run.world.driver.state(run.row.guest)
        if fields.get("vm_state") == states.ACTIVE and found is not None \
                and found.power_state == states.POWER_PAUSED and not found.job:
            run.world.driver.resume(run.row.guest)  # it was stopped only so that it could move


class RecordHere(Step):
    """record: the guest belongs to this host, and its task has ended."""

    name = "record"
    attempts = FOR_EVER

    def do(self, run: Run) -> dict[str, Any]:
        world = run.world
        found = world.driver.state(run.row.guest)
        if not reread(run):
            return {"published": False}  # it was deleted; what came here is reaped
        fields = data(run.instance)
        if fields.get("host") == world.host and fields.get("task_state") in (
                None, states.DELETING):
            return {"published": True}
        changes: dict[str, Any] = {
            "system_metadata": {**(fields.get("system_metadata") or {}),
                                GENERATION: str(told(run)["generation"])},
            "host": world.host, "node": world.inventory.node,
            "compute_id": world.inventory.compute_id(run.context), "task_state": None,
            "power_state": found.power_state if found else states.NOSTATE,
            **told_place(run, run.guest),
        }
        if fields.get("task_state") == states.DELETING:  # which is done here then, as adopted
            del changes["task_state"]
            run.save(changes, expected_task_state=[states.DELETING])
            return {"published": True}
        if not publish(run, changes, [states.MIGRATING]):
            raise Unknown(f"Guest {run.row.guest} is here, and its record changed meanwhile.",
                          next="It is looked at again.", code="changed")
        return {"published": True}


class MigrationDone(Step):
    """migration: completed, should the source not be there any more to say so."""

    name = "migration"
    attempts = FOR_EVER

    def do(self, run: Run) -> None:
        conductor = run.world.conductor
        try:  # by its uuid: the guest's newest may be the next one already
            for moving in conductor.migrations(run.context, {
                    "instance_uuid": run.row.guest, "migration_type": "live-migration"}):
                if data(moving).get("uuid") == told(run).get("migration"):
                    conductor.save(run.context, clean(moving), {"status": "completed"})
        except Refused as error:
            run.say(f"the migration's record could not be ended: {error.what}")


