"""image, rescue, shutdown, off, domain: a guest on another system, which mends its own.

The rescue system has disks of its own, beside the guest's. Which disks its domain has, in which
order, is written down when they are made, so that it can be defined again at any time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from compute.engine.run import Run
from compute.engine.step import Step
from compute.errors import Failed, Refused
from compute.model import states
from compute.model.guest import CachedImage, Disk, Image
from compute.rpc.primitives import data as fields_of
from compute.steps.attached import boots_from_volume
from compute.steps.disks import Progress, with_nics
from compute.steps.domain import (
    OFF,
    START_SECONDS,
    STOP_SECONDS,
    Domain,
    PowerOff,
    Shutdown,
    force_off,
    power,
)
from compute.steps.record import Record, Restore, publish, utc
from compute.steps.sleep import AWAKE


# -- the rescue system's image and disks ----------------------------------------------------------
class RescueImage(Step):
    """Bring the image of the rescue system into the cache: the one that was asked for, else
    [libvirt] rescue_image_id, else the one that the guest was made from."""

    name = "image"

    def do(self, run: Run) -> dict[str, Any]:
        if run.request["args"].get("lost"):
            raise Failed(f"The message with the request to rescue guest {run.row.guest} was lost, "
                         "and with it the image and the password.", now="Nothing was changed.",
                         next="Ask again.", code="request_lost")
        if boots_from_volume(run):
            raise Refused(f"Guest {run.row.guest} boots from a volume, and has no disk of its own "
                          "to be mended.", now="Nothing was changed.",
                          next="Detach the volume from a guest that is deleted, and attach it to "
                               "another one.", code="image_unacceptable")
        image = run.world.images.show(wanted(run))
        return {"image": asdict(image), "base": asdict(cached(run, image))}


def wanted(run: Run) -> str:
    """The id of the image to rescue with. Raises Failed(code='image_unacceptable')."""
    fields = fields_of(run.instance)
    recorded = (fields.get("system_metadata") or {}).get("image_base_image_ref")
    found = run.request["args"].get("rescue_image_ref") or \
        run.world.conf.libvirt.rescue_image_id or recorded or fields.get("image_ref")
    if not found:
        raise Failed(f"Guest {run.row.guest} was not made from an image, and none was given to "
                     "rescue it with.", now="Nothing was changed.", next="Give an image.",
                     code="image_unacceptable")
    return str(found)


def cached(run: Run, image: Image) -> CachedImage:
    """An image in the cache; it is fetched if need be."""
    driver = run.world.driver
    return driver.cached_image(image) or driver.fetch_image(
        image, run.world.images, Progress(run), run.check)


class RescueDisks(Step):
    """Make the disks that the guest has while it is rescued and has not otherwise. What an earlier
    rescue left is replaced."""

    name = "rescue"

    def do(self, run: Run) -> int:
        image = Image(**run.outcome("image")["image"])
        secrets = run.world.secrets.load(run.row.id, "guest")
        driver = run.world.driver
        driver.delete_rescue_disks(run.row.guest)
        return len(driver.create_rescue_disks(with_nics(run), image, cached(run, image), secrets))

    def undo(self, run: Run, data: Mapping[str, Any]) -> None:
        run.world.driver.delete_rescue_disks(run.row.guest)


class RescueDisksGone(Step):
    """The rescue system's disks are not needed any more."""

    name = "rescue"

    def do(self, run: Run) -> None:
        run.world.driver.delete_rescue_disks(run.row.guest)


# -- one system off, the other one on -------------------------------------------------------------
def ran(run: Run) -> dict[str, bool]:
    """Undo data: whether the guest ran."""
    return {"ran": power(run) in AWAKE}


def run_again(run: Run, data: Mapping[str, Any]) -> None:
    """Boot what is defined by now, if the guest ran before."""
    if data.get("ran") and power(run) in OFF:
        run.world.driver.power_on(run.row.guest)
        run.must(lambda: power(run) == states.RUNNING, START_SECONDS,
                 f"Guest {run.row.guest} running")


class ShutdownForNow(Shutdown):
    """As a stop does it; the undo boots the guest again."""

    def __init__(self) -> None:
        super().__init__("shutdown")

    def before(self, run: Run) -> Mapping[str, Any]:
        return ran(run)

    def undo(self, run: Run, data: Mapping[str, Any]) -> None:
        run_again(run, data)


class OffForNow(PowerOff):
    """Stop the rescue system; the undo boots it again."""

    def before(self, run: Run) -> Mapping[str, Any]:
        return ran(run)

    def undo(self, run: Run, data: Mapping[str, Any]) -> None:
        run_again(run, data)


class RescueDomain(Domain):
    """The guest's domain boots the rescue system from now on."""

    def disks(self, run: Run) -> tuple[Disk, ...]:
        return run.world.driver.rescue_disks(run.row.guest)

    def undo(self, run: Run, data: Mapping[str, Any]) -> None:
        swap(run, Domain())


class OwnDomain(Domain):
    """The guest's domain boots its own system again."""

    def undo(self, run: Run, data: Mapping[str, Any]) -> None:
        if run.world.driver.rescue_disks(run.row.guest):
            swap(run, RescueDomain())


def swap(run: Run, other: Domain) -> None:
    """Define the domain for the other system, which begins with its next boot."""
    force_off(run)
    run.must(lambda: power(run) in (*OFF, None), STOP_SECONDS, f"Guest {run.row.guest} off")
    other.do(run)


# -- what is told ---------------------------------------------------------------------------------
class Rescued(Record):
    """The guest is rescued, and since when."""

    def __init__(self) -> None:
        super().__init__(states.RESCUED, [states.RESCUING])

    def more(self, run: Run) -> Mapping[str, Any]:
        return {"launched_at": utc(run)}


class AsBefore(Restore):
    """No task any more. A guest that was active and does not run is in error."""

    def do(self, run: Run) -> None:
        found = run.world.driver.state(run.row.guest)
        changes: dict[str, Any] = {
            "task_state": None, "power_state": found.power_state if found else states.NOSTATE}
        before = (run.outcome("admission") or {}).get("vm_state")
        if before == states.ACTIVE and changes["power_state"] != states.RUNNING:
            changes["vm_state"] = states.ERROR
        publish(run, changes, self.expected)
