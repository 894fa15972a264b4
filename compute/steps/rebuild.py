"""shutdown, aside, disks, domain, power, record: a guest gets new disks from an image, in place.

Its former disks are renamed, not removed, until the guest is up on the new ones: until then all can
be taken back, and a guest is never without disks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from compute.engine.run import Run
from compute.engine.step import Step
from compute.errors import Refused
from compute.model import states, wire
from compute.model.guest import CachedImage, Guest
from compute.rpc.primitives import data as fields_of
from compute.rpc.primitives import patch
from compute.steps.admission import Admission
from compute.steps.attached import boots_from_volume, reconnected
from compute.steps.claim import devices_of, placement_of
from compute.steps.disks import Image
from compute.steps.domain import (
    OFF,
    START_SECONDS,
    Domain,
    PowerOn,
    Shutdown,
    generation,
    power,
    remove_domain,
)
from compute.steps.record import FOR_EVER, Record, Restore, publish, utc
from compute.steps.resize import ASIDE
from compute.steps.serial import serial_port

TASKS: list[str | None] = list(states.EVACUATING)
NOT_WANTED = ("deleting", "guest_not_found")


class Wanted(Admission):
    """admission: still wanted, and something that can be done."""

    def do(self, run: Run) -> Any:
        found = super().do(run)
        if run.request["args"].get("preserve_ephemeral") and run.guest.flavor.ephemeral_gb:
            raise Refused(f"The ephemeral disk of guest {run.row.guest} cannot be kept in a "
                          "rebuild (NotImplementedError).", now="The guest was not touched.",
                          next="Ask without preserve_ephemeral, or copy its contents first.",
                          code="not_implemented")
        if boots_from_volume(run):
            raise Refused(f"Guest {run.row.guest} boots from a volume, whose contents a rebuild "
                          "would not change (NotImplementedError).",
                          now="The guest was not touched.",
                          next="Make a new volume from the image, and a new guest on it.",
                          code="not_implemented")
        return found


class Quieted(Shutdown):
    """shutdown: asked, and given time. Its undo comes last: the guest starts again as it was."""

    def __init__(self) -> None:
        super().__init__("shutdown")

    def before(self, run: Run) -> Mapping[str, Any]:
        return {"ran": power(run) == states.RUNNING}

    def undo(self, run: Run, data: Mapping[str, Any]) -> None:
        wanted = (run.row.error or {}).get("code") not in NOT_WANTED
        if data.get("ran") and wanted and power(run) != states.RUNNING:
            run.world.driver.power_on(run.row.guest)
            run.must(lambda: power(run) == states.RUNNING, START_SECONDS,
                     f"Guest {run.row.guest} running")


def former(run: Run) -> Guest:
    """The guest with the image that it had before."""
    args = run.request["args"]
    before = {"image_ref": args.get("orig_image_ref"),
              "system_metadata": args.get("orig_sys_metadata")}
    kept = {key: value for key, value in before.items() if value is not None}
    return wire.guest(patch(run.instance, kept), None, run.world.conf.instance_name_template)


class FormerAside(Step):
    """aside: the former disks are renamed to ``<uuid>_resize``. Its undo brings them back, with a
    definition that fits them. A guest in error may have none."""

    name = "aside"

    def claims(self, run: Run) -> list:
        return [(ASIDE, run.row.guest, {"generation": generation(run)})]

    def before(self, run: Run) -> Mapping[str, Any]:
        driver, uuid = run.world.driver, run.row.guest
        return {"disks": bool(driver.disks(uuid)), "domain": driver.state(uuid) is not None}

    def do(self, run: Run) -> None:
        publish(run, {"task_state": states.REBUILD_BLOCK_DEVICE_MAPPING}, TASKS)
        driver, uuid = run.world.driver, run.row.guest
        if driver.disks(uuid) or driver.aside_disks(uuid):
            driver.set_aside_disks(uuid)

    def undo(self, run: Run, data: Mapping[str, Any]) -> None:
        driver, uuid = run.world.driver, run.row.guest
        if data.get("disks"):
            driver.bring_back_disks(uuid)
        if data.get("domain"):
            before = former(run)
            guest = replace(
                before, volumes=reconnected(run), serial_port=serial_port(run),
                placement=placement_of(run, before), devices=devices_of(run, before))
            driver.define(guest, driver.disks(uuid), guest.nics, generation=generation(run),
                          operation=run.row.id)
        else:
            remove_domain(run)
        run.world.journal.release(guest=uuid, kind=ASIDE)


class NewDisks(Step):
    """disks: new ones from the image, and a new config drive."""

    name = "disks"

    def claims(self, run: Run) -> list:
        return [("disks", run.row.guest, {})]

    def do(self, run: Run) -> int:
        publish(run, {"task_state": states.REBUILD_SPAWNING}, TASKS)
        base, image = run.outcome("image"), run.guest.image
        if image and run.resumed and run.world.driver.cached_image(image) is None:
            base = Image().do(run)  # it left the cache while the agent was down
        secrets = run.world.secrets.load(run.row.id, "guest")
        return len(run.world.driver.create_disks(run.guest, CachedImage(**base), secrets))

    def undo(self, run: Run, data: Mapping[str, Any]) -> None:
        run.world.driver.delete_disks(run.row.guest)  # the former ones have another name


class NewDomain(Domain):
    """domain: defined for the new image. To take it back is the matter of ``aside``."""

    def __init__(self) -> None:
        super().__init__(keep=True)


class NewPower(PowerOn):
    """power: running, unless it was stopped."""

    def wanted(self, run: Run) -> bool:
        return (run.outcome("admission") or {}).get("vm_state") != states.STOPPED

    def do(self, run: Run) -> None:
        if self.wanted(run):
            super().do(run)

    def settle(self, run: Run) -> None:
        if self.wanted(run):
            super().settle(run)


class Rebuilt(Record):
    """record: active or stopped, with its machine written down anew."""

    def __init__(self) -> None:
        super().__init__(states.ACTIVE, TASKS)

    def more(self, run: Run) -> Mapping[str, Any]:
        machine = {f"image_{key}": value for key, value in (run.outcome("domain") or {}).items()}
        kept = fields_of(run.instance).get("system_metadata") or {}
        stopped = power(run) in (*OFF, None)
        return {"vm_state": states.STOPPED if stopped else states.ACTIVE, "launched_at": utc(run),
                "system_metadata": {**kept, **machine}}


class FormerGone(Step):
    """former: the former disks are deleted."""

    name = "former"

    def do(self, run: Run) -> None:
        run.world.driver.delete_aside_disks(run.row.guest)
        run.world.journal.release(guest=run.row.guest, kind=ASIDE)


class AsBefore(Restore):
    """restore: no task any more, and the image that it had; in error only if it ran and does not.
    """

    attempts = FOR_EVER

    def __init__(self) -> None:
        super().__init__(TASKS)

    def do(self, run: Run) -> None:
        args, seen = run.request["args"], power(run) or states.NOSTATE
        changes: dict[str, Any] = {"task_state": None, "power_state": seen}
        if args.get("orig_image_ref") and args.get("orig_sys_metadata") is not None:
            changes.update(image_ref=args["orig_image_ref"],
                           system_metadata=args["orig_sys_metadata"])
        if seen in OFF and (run.outcome("admission") or {}).get("vm_state") == states.ACTIVE:
            changes["vm_state"] = states.ERROR
        publish(run, changes, self.expected)
