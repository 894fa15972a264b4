"""record, domain, ports, disks, release, offloaded: a guest is kept as an image, and given its
room back; then it gets disks from that image again.

Before anything of it is removed, the image is active; and it is removed only once the guest is up
on disks of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compute.engine.run import Run
from compute.engine.step import Step
from compute.errors import Refused
from compute.model import states
from compute.rpc.primitives import data as fields_of
from compute.steps import stays
from compute.steps.admission import Admission
from compute.steps.attached import boots_from_volume
from compute.steps.claim import need, room_of, told_place
from compute.steps.disks import Disks, remove_disks
from compute.steps.domain import GENERATION, power, remove_domain
from compute.steps.evacuation import recorded_generation
from compute.steps.guest_volumes import park
from compute.steps.record import FOR_EVER, Record, publish, reread, utc
from compute.steps.resize import unplug
from compute.steps.snapshot import ACTIVE

SHELVE: list[str | None] = [states.SHELVING, states.SHELVING_IMAGE_PENDING_UPLOAD,
                            states.SHELVING_IMAGE_UPLOADING]
OFFLOAD: list[str | None] = [states.SHELVING_OFFLOADING]
UNSHELVE: list[str | None] = [states.UNSHELVING, states.SPAWNING]
KEYS = ("shelved_at", "shelved_image_id", "shelved_host")  # Nova's, in system_metadata


def unshelved(fields: Mapping[str, Any]) -> dict[str, str]:
    """A guest's system metadata, without what says that it is shelved."""
    kept = fields.get("system_metadata") or {}
    return {key: value for key, value in kept.items() if key not in KEYS}


def shelved_image(fields: Mapping[str, Any]) -> str | None:
    """The image that a shelved guest is kept as."""
    return (fields.get("system_metadata") or {}).get("shelved_image_id")


class Shelvable(Admission):
    """admission: it is still wanted, and an image keeps all that the guest is."""

    def do(self, run: Run) -> Any:
        found = super().do(run)
        stays.refuse(run.guest, "be shelved")
        if boots_from_volume(run):
            raise Refused(f"Guest {run.row.guest} boots from a volume, and there is no disk of "
                          "which an image could be kept.", now="The guest was not touched.",
                          next="Stop it instead.", code="root_volume")
        return found


class Shelved(Record):
    """record: shelved, and kept as this image. When it is to be offloaded at once, its task says
    that this goes on."""

    def __init__(self) -> None:
        super().__init__(states.SHELVED, SHELVE)

    def do(self, run: Run) -> dict[str, Any]:
        offload = run.world.conf.shelved_offload_time == 0
        kept = fields_of(run.instance).get("system_metadata") or {}
        changes = {
            "vm_state": states.SHELVED, "power_state": power(run) or states.NOSTATE,
            "task_state": states.SHELVING_OFFLOADING if offload else None,
            "system_metadata": {**kept, "shelved_at": utc(run), "shelved_host": run.world.host,
                                "shelved_image_id": run.outcome("image")},
        }
        published = publish(run, changes, SHELVE)
        return {"published": published, "offload": offload and published}


def offloads(run: Run) -> bool:
    """Whether the guest leaves this host: it was asked for, or follows its shelving."""
    shelved = run.outcome("record")
    return shelved is None or bool(shelved.get("offload"))


class Kept(Step):
    """image: what the guest is kept as is there and whole, or nothing of it is removed."""

    name = "image"

    def do(self, run: Run) -> str:
        image = shelved_image(fields_of(run.instance))
        status = run.world.images.status(run.context, image) if image else None
        if image is None or status != ACTIVE:
            raise Refused(f"Guest {run.row.guest} cannot be offloaded: the image that it is kept "
                          f"as ({image or 'none is recorded'}) is {status or 'not there'}.",
                          now="Its disks stay on this host.",
                          next="Unshelve it, which starts it from its disks.",
                          code="image_not_found")
        return image


class OffloadedDomain(Step):
    """domain: its definition is removed, and a saved memory with it."""

    name = "domain"

    def do(self, run: Run) -> None:
        if offloads(run):
            remove_domain(run)


class OffloadedPorts(Step):
    """ports: nothing of its NICs and volumes is on this host; addresses and volumes stay its own.
    """

    name = "ports"

    def do(self, run: Run) -> None:
        if offloads(run):
            unplug(run)
            park(run)


class OffloadedDisks(Step):
    """disks: its disks are deleted."""

    name = "disks"

    def do(self, run: Run) -> None:
        if offloads(run):
            remove_disks(run)


class Offloaded(Step):
    """offloaded: it is on no host; then its room here is free."""

    name = "offloaded"
    attempts = FOR_EVER

    def do(self, run: Run) -> None:
        if not offloads(run):
            return
        publish(run, {
            "vm_state": states.SHELVED_OFFLOADED, "task_state": None, "host": None, "node": None,
            "compute_id": None, "launched_on": None, "availability_zone": None,
            "power_state": states.SHUTDOWN}, OFFLOAD)
        run.world.journal.release(guest=run.row.guest)


# -- back -----------------------------------------------------------------------------------------
class WantedHere(Step):
    """admission: it is offloaded, still to be unshelved, and no other host has it."""

    name = "admission"
    attempts = FOR_EVER

    def do(self, run: Run) -> dict[str, Any]:
        run.instance = run.world.conductor.instance(run.context, run.row.guest)
        fields = fields_of(run.instance)
        if fields.get("vm_state") != states.SHELVED_OFFLOADED \
                or fields.get("task_state") not in UNSHELVE \
                or fields.get("host") not in (None, run.world.host):
            raise Refused(
                f"Guest {run.row.guest} is not to be unshelved here: it is "
                f"{fields.get('vm_state')}, its task is {fields.get('task_state')}, its host "
                f"{fields.get('host')}.", now="Nothing was done.",
                next="Ask again if it is still wanted.", code="stale")
        return {"vm_state": fields.get("vm_state"), "generation": recorded_generation(fields) + 1,
                "image": shelved_image(fields)}


class UnshelveClaim(Step):
    """claim: room on this host, and the control plane's word that the guest is ours."""

    name = "claim"

    def claims(self, run: Run) -> list:
        run.world.driver.check_guest(run.guest)
        run.world.inventory.check_guest(run.guest)
        return [("resources", run.row.guest, room_of(run, run.guest))]

    def do(self, run: Run) -> None:
        world = run.world
        world.inventory.check(run.row.guest, need(run.guest))
        world.inventory.place(run.guest, run.row.id)
        if not publish(run, {
                **told_place(run, run.guest),
                "host": world.host, "node": world.inventory.node, "launched_on": world.host,
                "compute_id": world.inventory.compute_id(run.context),
                "task_state": states.SPAWNING}, UNSHELVE):
            raise Refused(f"Guest {run.row.guest} is not to be unshelved any more.",
                          now="Nothing was done.", code="stale")

    def undo(self, run: Run, data: Mapping[str, Any]) -> None:
        run.world.journal.release(guest=run.row.guest, kind="resources")


class OwnDisks(Disks):
    """disks: made from the image, and standing by themselves: the image does not stay."""

    def do(self, run: Run) -> int:
        made = super().do(run)
        run.world.driver.detach_base(run.row.guest)
        return made


class Unshelved(Record):
    """record: active, and shelved no more."""

    def __init__(self) -> None:
        super().__init__(states.ACTIVE, UNSHELVE)

    def do(self, run: Run) -> Any:
        run.world.networks.bind(run.context, run.row.guest, run.world.host)
        return super().do(run)

    def more(self, run: Run) -> Mapping[str, Any]:
        machine = {f"image_{key}": value for key, value in (run.outcome("domain") or {}).items()}
        return {"launched_at": utc(run), "system_metadata": {
            **unshelved(fields_of(run.instance)), **machine,
            GENERATION: str(run.outcome("admission")["generation"])}}


class Started(Record):
    """record: active; a guest that was shelved, and not offloaded, is so no more."""

    def __init__(self) -> None:
        super().__init__(states.ACTIVE, [states.POWERING_ON])

    def more(self, run: Run) -> Mapping[str, Any]:
        fields = fields_of(run.instance)
        return {"system_metadata": unshelved(fields)} if shelved_image(fields) else {}


class ShelvedImageGone(Step):
    """former: the image that it was kept as is removed: the guest has disks of its own."""

    name = "former"

    def do(self, run: Run) -> None:
        for prim in (run.request["args"]["instance"], run.instance):
            image = shelved_image(fields_of(prim))
            if image:
                run.world.images.remove(run.context, image)


class StillOffloaded(Step):
    """restore: it is offloaded as before, and on no host."""

    name = "restore"
    attempts = FOR_EVER

    def do(self, run: Run) -> None:
        if not reread(run) or fields_of(run.instance).get("host") not in (None, run.world.host):
            return
        publish(run, {"task_state": None, "host": None, "node": None, "compute_id": None,
                      "launched_on": None, "availability_zone": None}, UNSHELVE)
