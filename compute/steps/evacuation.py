"""admission, disks, record: a guest whose host is gone is made again on this one.

The control plane asks only when the other host is down and somebody confirmed that it is fenced;
the lock manager guards disks on shared storage besides. The other host, should it come back, finds
that its guests belong elsewhere and vacates them (see compute.operations.vacate).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compute.engine.run import Run
from compute.engine.step import Step
from compute.errors import Refused, Unknown
from compute.model import states
from compute.model.guest import CachedImage, GuestState
from compute.resources.tracker import MOVE
from compute.rpc.primitives import data
from compute.steps import stays
from compute.steps.attached import boots_from_volume, with_volumes
from compute.steps.claim import need, room_of, told_place
from compute.steps.disks import Image, remove_disks
from compute.steps.domain import GENERATION, Domain, PowerOn, force_off
from compute.steps.migration_record import mark
from compute.steps.record import FOR_EVER, publish, reread
from compute.steps.resize import ASIDE

TASKS: list[str | None] = list(states.EVACUATING)

def recorded_generation(fields: Mapping[str, Any]) -> int:
    """The generation that the control plane's record knows; 1 for a guest that never moved."""
    return int((fields.get("system_metadata") or {}).get(GENERATION) or 1)


class Evacuated(Step):
    """admission: the guest is still to be rebuilt here, and its host is another one."""

    name = "admission"
    attempts = FOR_EVER

    def do(self, run: Run) -> dict[str, Any]:
        run.instance = run.world.conductor.instance(run.context, run.row.guest)
        fields = data(run.instance)
        if fields.get("task_state") not in TASKS or fields.get("host") == run.world.host:
            raise Refused(
                f"Guest {run.row.guest} is not to be evacuated to this host: its task is "
                f"{fields.get('task_state')}, its host {fields.get('host')}.",
                now="Nothing was done.", next="Ask again if it is still wanted.", code="stale")
        inventory = run.world.inventory
        mark(run, "pre-migrating", dest_compute=run.world.host, dest_node=inventory.node,
             dest_compute_id=inventory.compute_id(run.context), dest_host=inventory.address)
        return {"vm_state": fields.get("vm_state"), "source": fields.get("host"),
                "generation": recorded_generation(fields) + 1}


class EvacuationClaim(Step):
    """claim: room on this host."""

    name = "claim"

    def claims(self, run: Run) -> list:
        stays.refuse(run.guest, "be evacuated")
        run.world.driver.check_guest(run.guest)
        run.world.inventory.check_guest(run.guest)
        return [("resources", run.row.guest, room_of(run, run.guest))]

    def do(self, run: Run) -> None:
        run.world.inventory.check(run.row.guest, need(run.guest))
        run.world.inventory.place(run.guest, run.row.id)
        publish(run, {"task_state": states.REBUILD_SPAWNING}, TASKS)

    def undo(self, run: Run, kept: Mapping[str, Any]) -> None:
        run.world.journal.release(guest=run.row.guest, kind="resources")


class Former(Step):
    """former: what an earlier stay of the guest left here is not taken for its newest incarnation.

    A host that the guest was evacuated from may be chosen again before it has cleared its copy.
    Disks that are found are the guest's newest ones only where its host, when it last reported,
    kept its disks on the very storage that this one sees; others go to quarantine.
    """

    name = "former"

    def do(self, run: Run) -> dict[str, Any]:
        driver, guest = run.world.driver, run.row.guest
        here, found = driver.state(guest), guest in driver.guest_dirs()
        if here is None and not found:
            return {"shared": False}
        self.check_older(run, here)
        shared = self.shared(run)
        if here is not None:
            force_off(run)
            driver.undefine(guest)
        if found and not shared:
            driver.quarantine_disks(guest)
        return {"shared": shared and found}

    @staticmethod
    def check_older(run: Run, here: GuestState | None) -> None:
        """Raise Refused unless the domain here is ours, and older than what the record knows."""
        if here is None:
            return
        recorded = run.outcome("admission")["generation"] - 1
        if not here.ours or here.generation >= recorded:
            raise Refused(
                f"A domain of guest {run.row.guest} is on host {run.world.host} already, "
                + (f"in generation {here.generation}, and the record knows of {recorded}."
                   if here.ours else "and it does not carry our metadata."),
                now="Nothing was touched; the guest still belongs to its host.",
                next=f"See 'magnetar explain {run.row.guest}', or choose another host.",
                code="two_copies")

    @staticmethod
    def shared(run: Run) -> bool:
        """Whether the host that is gone kept its disks where this one does; it cannot be asked,
        but it has told the control plane. Raises Refused(code='storage_unknown')."""
        source = run.outcome("admission")["source"]
        theirs = run.world.conductor.storage_of(run.context, source)
        if theirs is None:
            raise Refused(
                f"Host {run.world.host} has disks of guest {run.row.guest}, and whether they are "
                f"its newest ones is not known: host {source} never told where it keeps disks.",
                now="Nothing was touched; the guest still belongs to its host.",
                next="Choose another host; or, when they are old ones, let this host not see them "
                "any more: rename the guest's directory in [disk] instances_path.",
                code="storage_unknown")
        return theirs == run.world.driver.incoming_facts().get("storage")


class EvacuatedDisks(Step):
    """disks: those on storage that both hosts share; those that were set aside here for a resize
    which the loss of the other host broke off; else new ones from the image."""

    name = "disks"

    def claims(self, run: Run) -> list:
        return [("disks", run.row.guest, {})]

    def before(self, run: Run) -> Mapping[str, Any]:
        shared = run.outcome("former")["shared"] and any(
            disk.role == "root" for disk in run.world.driver.disks(run.row.guest))
        if run.request["args"].get("on_shared_storage") and not shared:
            raise Refused(f"Guest {run.row.guest} was said to be on shared storage, and its disks "
                          f"are not seen on host {run.world.host}.",
                          now="Nothing was done.", next="Mount the storage here, or evacuate it "
                          "without its disks, from its image.", code="disks_missing")
        return {"shared": shared, "aside": run.world.driver.aside_disks(run.row.guest)}

    def do(self, run: Run) -> int:
        driver, uuid = run.world.driver, run.row.guest
        complete = any(disk.role == "root" for disk in driver.disks(uuid)) or (
            boots_from_volume(run) and uuid in driver.guest_dirs())
        aside = driver.aside_disks(uuid)
        if aside and not complete:
            driver.bring_back_disks(uuid)
        if complete or aside:
            return len(driver.grow_disks(run.guest) if aside else driver.disks(uuid))
        base = Image().do(run)
        secrets = run.world.secrets.load(run.row.id, "guest")
        return len(run.world.driver.create_disks(
            with_volumes(run), CachedImage(**base) if base else None, secrets))

    def undo(self, run: Run, kept: Mapping[str, Any]) -> None:
        if kept.get("shared"):
            run.world.journal.release(guest=run.row.guest, kind="disks")
        elif kept.get("aside"):
            run.world.driver.set_aside_disks(run.row.guest)
            run.world.journal.release(guest=run.row.guest, kind="disks")
        else:
            remove_disks(run)


class EvacuatedDomain(Domain):
    """domain: a newer incarnation than the one on the host that is gone."""

    def claims(self, run: Run) -> list:
        return [("domain", run.row.guest, {
            "generation": run.outcome("admission")["generation"], "name": run.guest.name})]


class EvacuatedPower(PowerOn):
    """power: running, unless it was stopped and shall stay so."""

    def wanted(self, run: Run) -> bool:
        target = run.request["args"].get("target_state")
        return run.outcome("admission")["vm_state"] != states.STOPPED \
            and target != states.STOPPED

    def do(self, run: Run) -> None:
        if self.wanted(run):
            super().do(run)

    def settle(self, run: Run) -> None:
        if self.wanted(run):
            super().settle(run)


class EvacuatedRecord(Step):
    """record: the guest belongs to this host."""

    name = "record"
    attempts = FOR_EVER

    def do(self, run: Run) -> dict[str, Any]:
        world, found = run.world, run.world.driver.state(run.row.guest)
        power = found.power_state if found else states.NOSTATE
        world.networks.bind(run.context, run.row.guest, world.host)
        if not reread(run):
            return {"published": False}  # it was deleted; what is here is reaped
        fields = data(run.instance)
        if fields.get("host") == world.host and fields.get("task_state") in (
                None, states.DELETING):
            return {"published": True}
        changes = {
            "host": world.host, "node": world.inventory.node,
            "compute_id": world.inventory.compute_id(run.context), "task_state": None,
            "vm_state": states.ACTIVE if power == states.RUNNING else states.STOPPED,
            "power_state": power,
            "system_metadata": {**(fields.get("system_metadata") or {}),
                                GENERATION: str(run.outcome("admission")["generation"])},
            **told_place(run, run.guest),
        }
        if fields.get("task_state") == states.DELETING:  # which is done here then, as adopted
            del changes["task_state"]
            run.save(changes, expected_task_state=[states.DELETING])
            return {"published": True}
        if not publish(run, changes, TASKS):
            raise Unknown(f"The record of guest {run.row.guest} changed while it was evacuated.",
                          next="It is looked at again.", code="changed")
        return {"published": True}


class WayBackGone(Step):
    """aside: what this host kept for a resize that the loss of the other host broke off."""

    name = "aside"

    def do(self, run: Run) -> None:
        journal, uuid = run.world.journal, run.row.guest
        if journal.claims(kind=ASIDE, guest=uuid):
            run.world.driver.delete_aside_disks(uuid)
            journal.release(guest=uuid, kind=ASIDE)
        journal.release(guest=uuid, kind=MOVE)
